// A page on which much happens: how long its thread was kept busy in one piece, and what it shows meanwhile.
// Usage: node busy.js URL TOKEN SECONDS   prints JSON

import {watchThread, withPage} from "./chromium.js";

const [url, token, seconds] = process.argv.slice(2);
const told = await withPage({url, token}, async (page) => {
  await page.locator(".list-row").first().waitFor();
  await watchThread(page);
  const first = await page.locator(".list-row a").first().getAttribute("href");
  await page.waitForTimeout(Number(seconds) * 1000);
  return {
    blocked: await page.evaluate(() => globalThis.blocked),
    live: await page.locator(".tiles dd").first().textContent(),
    accepted: await page.locator(".tiles dd").nth(2).textContent(),
    rows: await page.locator(".list-row").count(),
    moved: first !== (await page.locator(".list-row a").first().getAttribute("href")),
  };
});
console.log(JSON.stringify(told));
