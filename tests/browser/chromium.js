// Debian's Chromium, opened on the page of a daemon that runs, and axe-core in it.

import {createRequire} from "node:module";
import {mkdtemp, rm} from "node:fs/promises";
import {tmpdir} from "node:os";
import {join} from "node:path";
import {chromium} from "playwright-core";

const axe = createRequire(import.meta.url).resolve("axe-core/axe.min.js");
const ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync"];

// Run `use` with a page of a browser that has no past, logged in by the token in the address.
export async function withPage({url, token, width = 1280, height = 900, scheme = "light"}, use) {
  const folder = await mkdtemp(join(tmpdir(), "calledin-browser-"));
  const context = await chromium.launchPersistentContext(folder, {
    executablePath: process.env.CHROMIUM || "/usr/bin/chromium", headless: true, args: ARGUMENTS, colorScheme: scheme,
    viewport: {width, height}, deviceScaleFactor: 1, acceptDownloads: false,
  });
  const wrong = [];
  const page = context.pages()[0];
  page.on("pageerror", (error) => wrong.push(String(error)));
  const missing = /^Failed to load resource.*404/; // what is asked for in case it is there
  page.on("console", (line) => {
    if (line.type() === "error" && !missing.test(line.text())) wrong.push(`${line.text()} ${line.location().url}`);
  });
  page.on("request", (request) => {
    if (!request.url().startsWith(url) && !/^(blob|data):/.test(request.url())) wrong.push(`asked for ${request.url()}`);
  });
  try {
    await page.goto(`${url}/#token=${token}`);
    await page.locator("main h1").waitFor();
    return {...(await use(page)), wrong};
  } catch (error) {
    console.error(wrong.join("\n"), await page.locator("body").innerText().catch(() => ""));
    throw error;
  } finally {
    await context.close();
    await rm(folder, {recursive: true, force: true});
  }
}

export async function goTo(page, url, path) {
  await page.goto(url + path);
  await page.locator("main h1").waitFor();
}

// What axe-core has to complain of, as lines. It is put in past the page's own rules, which let in no other script.
export async function complaints(page) {
  const {readFile} = await import("node:fs/promises");
  await page.evaluate(await readFile(axe, "utf8"));
  const {violations} = await page.evaluate(() => globalThis.axe.run(document, {resultTypes: ["violations"]}));
  return violations.flatMap((each) => each.nodes.map((node) => `${each.id}: ${each.help}: ${node.html.slice(0, 160)} ${node.failureSummary?.split("\n")[1] ?? ""}`));
}

// How long the page's own thread was kept from everything else, in milliseconds.
export const watchThread = (page) => page.evaluate(() => {
  globalThis.blocked = 0;
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) globalThis.blocked = Math.max(globalThis.blocked, entry.duration);
  }).observe({type: "longtask"});
});
