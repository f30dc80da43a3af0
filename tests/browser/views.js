// Every view and every guide, at two widths, light and dark: axe-core's complaints, and a picture of each where a folder is given.
// Usage: node views.js URL TOKEN CALL_ID [FOLDER]   prints JSON

import {complaints, goTo, withPage} from "./chromium.js";

const [url, token, call, folder] = process.argv.slice(2);
const VIEWS = {now: "/", calls: "/calls", call: `/calls/${call}`, keys: "/keys", dnc: "/dnc", trunks: "/trunks", try: "/try",
  phone: "/phone"};
const found = {};
const wrong = [];
for (const [width, height] of [[1280, 900], [390, 844]]) {
  for (const scheme of ["light", "dark"]) {
    const told = await withPage({url, token, width, height, scheme}, async (page) => {
      const look = async (name) => {
        const lines = found[`${name} ${width} ${scheme}`] = await complaints(page);
        const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
        if (wide > 0) lines.push(`the page is ${wide} pixels wider than the window`);
        if (folder) await page.screenshot({path: `${folder}/${name}-${width}-${scheme}.png`, fullPage: name !== "now"});
      };
      for (const [name, path] of Object.entries(VIEWS)) {
        await goTo(page, url, path);
        await page.waitForTimeout(900);
        await look(name);
      }
      await goTo(page, url, "/help/");
      const guides = await page.locator("nav a").evaluateAll((links) => links.map((link) => link.getAttribute("href")));
      await look("help");
      for (const guide of guides) {
        await goTo(page, url, `/help/${guide}`);
        await look(`help-${guide}`);
      }
      return {};
    });
    wrong.push(...told.wrong);
  }
}
console.log(JSON.stringify({found, wrong}));
