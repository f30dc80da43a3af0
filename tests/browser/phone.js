// The phone in a real browser: it rings, is answered, is heard; the next call is declined; nothing is loaded anew.
// Usage: node phone.js URL TOKEN MP3 [FOLDER]   prints JSON; the samples that the loudspeaker was given go to FOLDER

import {writeFile} from "node:fs/promises";
import {complaints, goTo, withPage} from "./chromium.js";

const [url, token, mp3, folder] = process.argv.slice(2);

const text = (page, words) => page.getByText(words, {exact: false}).first().waitFor({timeout: 15000});

const told = await withPage({url, token}, async (page) => {
  await goTo(page, url, "/phone");
  // Should the page be loaded anew, this is gone.
  await page.evaluate(async () => {
    globalThis.stays = true;
    globalThis.phone = (await import("/static/phone.js")).phone;
    globalThis.phone.speaker.record();
  });
  await page.locator("input[type=file]").setInputFiles(mp3);
  await page.getByRole("button", {name: "Answer"}).and(page.locator(":enabled")).waitFor();
  const code = await page.locator(".code").textContent();
  if (folder) await page.screenshot({path: `${folder}/ringing.png`, fullPage: true});
  const whileRinging = await complaints(page);
  await page.getByRole("button", {name: "Answer"}).click();
  await text(page, "Connected");
  await page.getByRole("button", {name: "5", exact: true}).click();
  await page.waitForTimeout(1500);
  const level = await page.evaluate(() => document.querySelector("meter").value);
  if (folder) await page.screenshot({path: `${folder}/connected.png`, fullPage: true});
  await page.getByText("Over: the caller hung up").waitFor({timeout: 60000});
  const samples = await page.evaluate(() => globalThis.phone.speaker.recorded());
  await page.locator("dl.facts", {hasText: "signature"}).waitFor({timeout: 15000});
  const callback = await page.locator("section", {hasText: "The callback"}).last().locator("dl").innerText();
  const ladder = await page.locator(".ladder summary b").allTextContents();
  const way = await page.locator("dl.facts", {hasText: "Number"}).first().innerText();
  if (folder) {
    await page.screenshot({path: `${folder}/over.png`, fullPage: true});
    await writeFile(`${folder}/samples.f32`, new Uint8Array(new Float32Array(samples.samples).buffer));
  }

  await page.getByRole("button", {name: "Call me"}).click();
  await page.getByRole("button", {name: "Decline"}).and(page.locator(":enabled")).click();
  await page.getByText("not answered: busy").waitFor({timeout: 15000});
  await page.locator("dl.facts", {hasText: "signature"}).waitFor({timeout: 15000});
  const declined = await page.locator("section", {hasText: "The callback"}).last().locator("dl").innerText();
  const ladderOfDeclined = await page.locator(".ladder summary b").allTextContents();
  const stayed = await page.evaluate(() => globalThis.stays === true);
  return {code, whileRinging, level, rate: samples.rate, count: samples.samples.length, callback, ladder, way, declined,
    ladderOfDeclined, stayed};
});
console.log(JSON.stringify(told));
