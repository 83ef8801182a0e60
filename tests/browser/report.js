// Checks the HTML reports of real bench runs in headless Chromium: light and dark, wide and narrow, printed.
// REPORT_SCREENSHOT=FILE saves a screenshot of the wide light one.

import { execFile } from "node:child_process";
import { readFile, rm } from "node:fs/promises";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { promisify } from "node:util";

import { chromium } from "playwright-core";

import { BINARY, check, counts, scratch } from "./rig.js";

const VIEWS = [
  { name: "wide and light", width: 1280, colorScheme: "light" },
  { name: "wide and dark", width: 1280, colorScheme: "dark" },
  { name: "narrow and light", width: 360, colorScheme: "light" },
  { name: "narrow and dark", width: 360, colorScheme: "dark" },
];

const run = (...words) => promisify(execFile)(BINARY, words, { cwd: scratch });

/** Collects possible defects of a page, inside it. */
function inspect() {
  const box = (element) => element.getBoundingClientRect();
  const plots = [...document.querySelectorAll("svg[role=img]")];
  // Some labels are shown only where they fit.
  const visible = (plot) => [...plot.querySelectorAll("text")].filter((text) => box(text).width > 0);
  const outside = plots.flatMap((plot) => {
    const frame = box(plot.closest("figure"));
    return visible(plot).filter((text) => box(text).left < frame.left || box(text).right > frame.right);
  });
  // Lines of text are close to each other; only overlapping letters are unreadable.
  const covers = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 &&
    a.top + 4 < b.bottom - 4 && b.top + 4 < a.bottom - 4;
  const overlapping = plots.flatMap((plot) => {
    const texts = visible(plot);
    return texts.flatMap((text, index) => texts.slice(index + 1)
      .filter((other) => covers(box(text), box(other)))
      .map((other) => `${text.textContent} / ${other.textContent}`));
  });
  const luminance = (colour) => {
    const parts = colour.match(/[\d.]+/g).slice(0, 3).map((part) => part / 255)
      .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  const style = getComputedStyle(document.body);
  const [a, b] = [luminance(style.color), luminance(style.backgroundColor)];
  return {
    sideways: document.scrollingElement.scrollWidth - window.innerWidth,
    headings: document.querySelectorAll("h1").length,
    lang: document.documentElement.lang,
    plots: plots.length,
    empty: plots.filter((plot) => box(plot).width < 100 || box(plot).height < 20).length,
    untitled: plots.filter((plot) => !plot.querySelector("title")?.textContent).length,
    outside: outside.map((text) => text.textContent),
    overlapping,
    contrast: (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05),
    dark: b < 0.2,
  };
}

async function views(browser, title, file, leastPlots) {
  for (const view of VIEWS) {
    const context = await browser.newContext({
      viewport: { width: view.width, height: 800 }, colorScheme: view.colorScheme,
    });
    const page = await context.newPage();
    const wrong = [];
    page.on("console", (message) => wrong.push(message.text()));
    page.on("pageerror", (error) => wrong.push(error.message));
    page.on("request", (request) => {
      if (request.url() !== url) wrong.push(`requests ${request.url()}`);
    });
    const url = pathToFileURL(path.join(scratch, file)).href;
    await page.goto(url);
    const found = await page.evaluate(inspect);
    const name = `${title}, ${view.name}`;
    check(`${name}: no requests, no console output`, wrong.length === 0, wrong.join(" | "));
    check(`${name}: does not scroll sideways`, found.sideways <= 0, `${found.sideways} px over`);
    check(`${name}: one h1, a language`, found.headings === 1 && found.lang !== "");
    check(`${name}: plots with titles`, found.plots >= leastPlots && found.empty + found.untitled === 0,
      `${found.plots} plots, ${found.empty} empty, ${found.untitled} untitled`);
    check(`${name}: labels stay inside their plots`, found.outside.length === 0, found.outside.join(" | "));
    check(`${name}: labels do not overlap`, found.overlapping.length === 0,
      found.overlapping.join(" | "));
    check(`${name}: text is readable`, found.contrast >= 7, `contrast ${found.contrast.toFixed(1)}`);
    check(`${name}: background follows the color scheme`, found.dark === (view.colorScheme === "dark"));
    if (view === VIEWS[0] && leastPlots > 4 && process.env.REPORT_SCREENSHOT) {
      await page.screenshot({ path: process.env.REPORT_SCREENSHOT, fullPage: true });
    }
    if (view === VIEWS[0]) {
      const pdf = await page.pdf({ format: "A4" });
      check(`${title}: prints`, pdf.length > 10_000);
    }
    await context.close();
  }
}

/** A cell of the lab's map shows details while it has the focus, inside the viewport. */
async function cells(browser) {
  const page = await browser.newPage({ viewport: { width: 360, height: 700 } });
  await page.goto(pathToFileURL(path.join(scratch, "lab.html")).href);
  const cell =  page.locator(".map td").nth(6);
  const tip = cell.locator(".tip");
  check("a cell shows no details at first", !(await tip.isVisible()));
  await cell.focus();
  const box = await tip.boundingBox();
  check("a focused cell shows details", (await tip.textContent()).includes("port and sym"), await tip.textContent());
  check("and they are inside the viewport", box.x >= 0 && box.y >= 0 && box.x + box.width <= 360 && box.y + box.height <= 700,
    JSON.stringify(box));
  await page.close();
}

let browser;
try {
  const load = ["--connections", "8", "--pings", "400", "--ping-interval", "5ms", "--keyframes", "8"];
  await run("bench", "-q", ...load, "--out", "old.json", "--max-rtt-p95", "10s");
  await run("bench", "-q", ...load, "--out", "new.json", "--html", "one.html", "--max-rtt-p95", "10s",
    "--min-success", "99%", "--baseline", "old.json");
  await run("report", "-q", "old.json", "new.json", "--html", "two.html");
  // An unused port: every connection fails, which is exit code 1.
  await run("bench", "-q", "--connections", "2", "--warmup", "0", "--timeout", "2s", "--ice-policy", "relay",
    "--ice-server", "turn:127.0.0.1:9", "--turn-secret", "x", "--html", "failed.html").catch((error) => {
    check("a run without connections fails", error.code === 1, error.stderr);
  });
  const lab = ["lab", "-q", "--matrix", "--profiles", "none,port,sym,udp-blocked", "--html", "lab.html"];
  await run(...lab);
  const result = JSON.parse(await readFile(path.join(scratch, "new.json"), "utf8"));
  check("the run passed", result.pass === true);
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM, args: ["--no-sandbox", "--disable-gpu"],
  });
  await views(browser, "one run", "one.html", 6);
  await views(browser, "two runs", "two.html", 3);
  await views(browser, "a failed run", "failed.html", 3);
  await views(browser, "a lab", "lab.html", 0);
  await cells(browser);
} catch (error) {
  check("the test itself", false, error.stack);
} finally {
  await browser?.close();
  await rm(scratch, { recursive: true, force: true });
}
console.log(`${counts.passed} passed, ${counts.failed} failed`);
process.exitCode = counts.failed === 0 ? 0 : 1;
