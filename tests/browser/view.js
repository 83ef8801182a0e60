// Checks the page of `recv --view`, and the page of `serve` as the Mac and as the phone, in headless Chromium: display
// and controls, light and dark, wide and narrow. VIEW_SCREENSHOTS=DIR saves screenshots.

import { readFile } from "node:fs/promises";
import path from "node:path";

import { Peer, until } from "./process.js";
import { BINARY, SAMPLES, check, launch, scratch, suite } from "./rig.js";

const VIEWS = [
  { name: "wide-light", width: 1280, colorScheme: "light" },
  { name: "wide-dark", width: 1280, colorScheme: "dark" },
  { name: "narrow-light", width: 360, colorScheme: "light" },
  { name: "narrow-dark", width: 360, colorScheme: "dark" },
];

/** A page that collects errors and warnings. */
async function open(browser, url, { width = 1280, colorScheme = "light" } = {}) {
  const context = await browser.newContext({ viewport: { width, height: 900 }, colorScheme });
  const page = await context.newPage();
  page.problems = [];
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) page.problems.push(message.text());
  });
  page.on("pageerror", (error) => page.problems.push(error.message));
  await page.goto(url);
  return page;
}

const text = (page, id) => page.locator(`#${id}`).textContent();

async function picture(page, name, { fullPage = true } = {}) {
  const folder = process.env.VIEW_SCREENSHOTS;
  if (folder) await page.screenshot({ path: path.join(folder, `${name}.png`), fullPage });
}

/** Collects possible defects of a page, inside it. */
function inspect() {
  const luminance = (colour) => {
    const parts = colour.match(/[\d.]+/g).slice(0, 3).map((part) => part / 255)
      .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  const style = getComputedStyle(document.body);
  const [a, b] = [luminance(style.color), luminance(style.backgroundColor)];
  const unnamed = [...document.querySelectorAll("button, input, select, img, canvas, svg")].filter((element) => {
    if (element.closest("[aria-hidden=true]") || !element.checkVisibility()) return false;
    const words = element.ariaLabel || element.alt || element.textContent.trim() ||
      element.labels?.[0]?.textContent.trim() || element.closest("[aria-label], button")?.textContent ||
      element.closest("[aria-label]")?.ariaLabel;
    return !words;
  });
  return {
    sideways: document.scrollingElement.scrollWidth - window.innerWidth,
    headings: document.querySelectorAll("h1").length,
    lang: document.documentElement.lang,
    unnamed: unnamed.map((element) => element.outerHTML.slice(0, 80)),
    contrast: (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05),
    dark: b < 0.2,
  };
}

async function looks(browser, url, name, ready) {
  for (const view of VIEWS) {
    const page = await open(browser, url, view);
    await ready(page);
    // The plots are drawn once a second.
    await page.waitForTimeout(1500);
    const found = await page.evaluate(inspect);
    const what = `${name}, ${view.name}`;
    check(`${what}: does not scroll sideways`, found.sideways <= 0, `${found.sideways} px over`);
    check(`${what}: one h1, a language, everything has a name`,
      found.headings === 1 && found.lang !== "" && found.unnamed.length === 0, found.unnamed.join(" | "));
    check(`${what}: text is readable`, found.contrast >= 7, `contrast ${found.contrast.toFixed(1)}`);
    check(`${what}: background follows the color scheme`, found.dark === (view.colorScheme === "dark"));
    check(`${what}: no errors or warnings`, page.problems.length === 0, page.problems.join(" | "));
    await picture(page, `${name.replaceAll(" ", "-")}-${view.name}`);
    await page.context().close();
  }
}

/** The width of the large picture as received. */
const shown = (page) => page.evaluate(() => {
  const large = document.querySelector("#large");
  return !large.hidden && large.complete && large.naturalWidth;
});

async function receiverPage(browser, server) {
  const recv = new Peer(BINARY, ["recv", "--json", "--signal", server.signal, "--view", "127.0.0.1:0",
    "--out", path.join(scratch, "frames")]);
  const url = await until("the page's address", () => recv.events("page")[0]?.url);
  const page = await open(browser, url);
  await until("a state", async () => /waiting/.test(await text(page, "state")));
  check("before the first keyframe the page shows a placeholder", /No keyframe yet/.test(await text(page, "placeholder")),
    await text(page, "placeholder"));
  await picture(page, "recv-waiting");

  const send = new Peer(BINARY, ["send", "--json", "--signal", server.signal, "--source", SAMPLES, "--interval", "1s"]);
  const width = await until("a picture", () => shown(page));
  check("the newest keyframe is shown in its original size", [1280, 1920, 960, 720, 1024].includes(width) || width > 300, `${width} px`);
  check("its hash is verified", (await text(page, "verified")) === "verified", await text(page, "verified"));
  const ages = [];
  for (let i = 0; i < 4; i += 1) {
    ages.push(await text(page, "age"));
    await page.waitForTimeout(150);
  }
  check("its age ticks", new Set(ages).size > 1, ages.join(", "));
  await until("more keyframes in the strip", async () => (await page.locator("#strip button").count()) >= 4);
  await until("a connection", async () => (await text(page, "state")) === "connected");
  check("the connection type is shown", (await text(page, "type")) === "host", await text(page, "type"));
  check("and the round-trip time", /ms/.test(await text(page, "rtt")), await text(page, "rtt"));

  const thumb = page.locator("#strip button").nth(2);
  const number = await thumb.getAttribute("data-seq");
  await thumb.focus();
  await page.keyboard.press("Enter");
  check("an earlier keyframe can be opened with the keyboard", (await text(page, "picture-title")) === `Keyframe ${number}`,
    await text(page, "picture-title"));
  await page.locator("#newest").click();
  check("and the latest one again", (await text(page, "picture-title")) === "Latest keyframe");

  await page.locator("#say-text").fill("Grüße <b>from</b> the page");
  await page.keyboard.press("Enter");
  const received =  await until("the text", () => send.events("text")[0]?.text);
  check("a text from the page arrives", received === "Grüße <b>from</b> the page", received);
  send.type("back <i>to</i> it");
  await until("the text on the page", async () => /back <i>to<\/i> it/.test(await text(page, "texts")));
  check("a text to the page is not interpreted as HTML", (await page.locator("#texts i").count()) === 0);

  const before = recv.events("keyframe").length;
  await page.locator("#keyframe-now").click();
  await until("the requested keyframe", () => recv.events("keyframe").length > before);
  check("a requested keyframe arrives", true, await text(page, "keyframe-result"));

  await page.waitForTimeout(3000);
  await looks(browser, url, "recv", (other) => until("a picture", () => shown(other)));
  check("send ends with 0", (await send.stop()) === 0);
  check("recv ends with 0", (await recv.stop()) === 0);
  await until("the end on the page", () => page.locator("#banner").isVisible());
  check("the page shows the end of the run", /ended/.test(await text(page, "banner")), await text(page, "banner"));
  await picture(page, "recv-ended");
  check("no errors or warnings", page.problems.length === 0, page.problems.join(" | "));
  await page.context().close();
}

/** Joins with the form of serve's page. */
async function join(browser, server, role) {
  const page = await open(browser, server.http);
  await until("the form", () => page.locator("#join-button").isEnabled());
  await page.locator(`input[name=role][value=${role}]`).check();
  return page;
}

async function pageAsMac(browser, server) {
  const page = await join(browser, server, "mac");
  await page.locator("#join-button").click();
  const send = new Peer(BINARY, ["send", "--json", "--signal", server.signal, "--source", SAMPLES, "--interval", "1s"]);
  await until("a picture on the Mac's page", () => shown(page));
  await until("three of them", async () => (await page.locator("#strip button").count()) >= 3);
  await until("a connection", async () => (await text(page, "state")) === "connected");
  check("the page as the Mac shows keyframes of send", true, await text(page, "dimensions"));
  await page.locator("#say-text").fill("from the browser");
  await page.locator("#say-button").click();
  const received =  await until("its text", () => send.events("text")[0]?.text);
  check("and sends texts", received === "from the browser");
  const before = send.events("keyframe").length;
  await page.locator("#keyframe-now").click();
  await until("the requested keyframe", () => send.events("keyframe").length > before);
  await page.waitForTimeout(1500);
  await picture(page, "mac");
  await page.locator("#leave-button").click();
  await until("the end of the call", () => /said goodbye/.test(send.stderr));
  check("leaving ends the call", true);
  await page.locator("#join-button").click();
  await until("a picture again", async () => (await text(page, "state")) === "connected" && shown(page));
  check("and it can join again", true);
  check("send ends with 0", (await send.stop()) === 0);
  check("no errors or warnings", page.problems.length === 0, page.problems.join(" | "));
  await page.context().close();
}

async function pageAsPhone(browser, server) {
  const out = path.join(scratch, "phone");
  const recv = new Peer(BINARY, ["recv", "--json", "--signal", server.signal, "--out", out, "--count", "3"]);
  const page = await join(browser, server, "phone");
  await page.locator("input[name=interval]").fill("0.8");
  await page.locator("#join-button").click();
  check("recv gets three keyframes of the page's pattern and ends with 0", (await recv.ended()) === 0,
    recv.stderr.split("\n").at(-2));
  const lines = (await readFile(path.join(out, "frames.jsonl"), "utf8")).trim().split("\n").map(JSON.parse);
  check("each has a size", lines.length === 3 && lines.every(({ width, bytes }) => width > 0 && bytes > 0),
    lines.map(({ width, height, bytes }) => `${width}x${height} ${bytes}`).join(", "));
  await picture(page, "phone");
  check("no errors or warnings", page.problems.length === 0, page.problems.join(" | "));
  await page.context().close();
}

/** The form before joining, and a rejected login. */
async function form(browser, server) {
  await looks(browser, server.http, "form", (page) => until("the form", () => page.locator("#join-button").isEnabled()));
  const page = await join(browser, server, "mac");
  await page.locator("input[name=login]").fill("wrong");
  await page.locator("#join-button").click();
  const message = await until("the refusal", async () => await text(page, "join-result") || text(page, "banner"));
  check("a refused login is reported", /login/i.test(message), message);
  check("and it can be tried again", await page.locator("#join-button").isEnabled());
  await page.context().close();
}

await suite(async (server) => {
  const browser = await launch();
  try {
    for (const one of [receiverPage, pageAsMac, pageAsPhone, form]) {
      console.log(`-- ${one.name}`);
      if (!process.env.ONLY || process.env.ONLY === one.name) await one(browser, server);
    }
  } finally {
    await browser.close();
  }
});
