// Shared by the tests with Chromium: a serve on a free port, a page server, browser pages, checks.

import { mkdtemp, readFile, rm } from "node:fs/promises";
import http from "node:http";
import { tmpdir } from "node:os";
import path from "node:path";

import { chromium } from "playwright-core";

import { Peer, killAll, until } from "./process.js";

export const BINARY = process.env.ORION_PEER;
export const SAMPLES = path.resolve(import.meta.dirname, "../../samples");

/** Colors of the quarters of the phone's picture, and the tolerance of their decoded means. */
export const COLOURS = [[200, 40, 40], [40, 160, 60], [40, 60, 190], [150, 150, 150]];
export const COLOUR_SLACK = 12;
export const PHONE_SIZE = { width: 640, height: 480 };

/** The offer of a page as the phone, without its ICE servers. */
export const PHONE = { codec: "video/H264", ...PHONE_SIZE, colours: COLOURS };

const FLAGS = [
  "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync",
];

/** Enables real addresses as candidates, including loopback, so that the tests work without any network. */
export const LOCAL = ["--allow-loopback-in-peer-connection", "--disable-features=WebRtcHideLocalIpsWithMdns"];

/** Number of checks so far. */
export const counts = { passed: 0, failed: 0 };

export function check(name, ok, detail = "") {
  if (ok) counts.passed += 1;
  else counts.failed += 1;
  console.log(`${ok ? "pass" : "FAIL"}  ${name}${detail === "" ? "" : `: ${detail}`}`);
}

export const scratch = await mkdtemp(path.join(tmpdir(), "orion-browser-"));

/** Serves the page, the sample photos, and, below `/scratch/`, the files of the test. */
async function servePage() {
  const types = { ".html": "text/html", ".js": "text/javascript", ".jpg": "image/jpeg", ".png": "image/png", ".h264": "video/h264" };
  const folder = (url) => {
    if (url.startsWith("/samples/")) return SAMPLES;
    if (url.startsWith("/scratch/")) return path.join(scratch, path.basename(path.dirname(url)));
    return path.join(import.meta.dirname, "page");
  };
  const server = http.createServer(async (request, response) => {
    const name = request.url === "/" ? "index.html" : path.basename(request.url);
    try {
      const body = await readFile(path.join(folder(request.url), name));
      response.setHeader("Content-Type", types[path.extname(name)]).end(body);
    } catch {
      response.writeHead(404).end();
    }
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return server;
}

/** Starts `serve` on free ports. */
async function startServe() {
  const serve = new Peer(BINARY, ["serve", "--listen", "127.0.0.1:0", "--turn-listen", "127.0.0.1:0"]);
  const address = await until("serve to listen", () => {
    if (serve.code !== undefined) throw new Error(`serve ended: ${serve.stderr}`);
    return /listening on (\S+)/.exec(serve.stderr)?.[1];
  });
  return { serve, http: `http://${address}`, signal: `ws://${address}` };
}

let pages;
let server;

/** Chromium's version, once a page has been opened. */
export let version = "";

/** The answer of the token API for a device, with the signaling URL. */
export async function fetchToken(deviceId) {
  const answer = await fetch(`${server.http}/api/auth/webrtc-token`, {
    method: "POST",
    headers: { Authorization: "Bearer dev", "Content-Type": "application/json" },
    body: JSON.stringify({ deviceId }),
  });
  if (answer.status !== 200) throw new Error(`token API: ${answer.status} ${await answer.text()}`);
  return { signal: `${server.signal}/api/signal`, ...(await answer.json()) };
}

/** Launches a separate browser. */
export const launch = (flags = LOCAL) => chromium.launch({
  executablePath: process.env.CHROMIUM, headless: false, chromiumSandbox: false, args: [...FLAGS, ...flags],
});

/** A page in a separate browser, in the room as `deviceId`; `iceServers` are its ICE servers. */
export async function openPage(deviceId, flags = LOCAL) {
  const browser = await launch(flags);
  version = browser.version();
  const page = await browser.newPage();
  await page.goto(`http://127.0.0.1:${pages.address().port}/`);
  await page.waitForFunction(() => window.peer);
  const { signal, token, pairId, iceServers } = await fetchToken(deviceId);
  const call = (name, ...args) =>
    page.evaluate(([name, args]) => window.peer[name](...args), [name, args]);
  const get = (name) => page.evaluate((name) => window.peer[name], name);
  return {
    browser, page, call, get, iceServers, deviceId,
    join: () => call("join", { signal, token, pairId }),
    /** The first matching control message. */
    control: (what, fits) => until(what, async () => (await get("controls")).find(fits)),
    /** Closes the browser. */
    close: () => browser.close(),
    state: () => page.evaluate(() => {
      const { transformed, problems, matches, controls, signals } = window.peer;
      const received = controls.slice(-20);
      return { transformed: transformed.slice(-10), problems, matches, received, signals: signals.map((one) => one.t) };
    }),
  };
}

/** Starts an `orion-peer` in the room of the page. */
export function startPeer([command, ...args]) {
  const known = ["--json", "--signal", server.signal];
  // A responder waits indefinitely.
  if (!args.includes("--respond")) known.push("--timeout", "40s");
  return new Peer(BINARY, [command, ...known, ...args]);
}

/** Runs `body` with the remote peer that `open` returns and an orion-peer, and shows the output of both on failure;
 * returns whether it passed. */
export async function scenario(name, { open, peer: args }, body) {
  console.log(`-- ${name}`);
  const before = counts.failed;
  let page;
  let peer;
  try {
    page = await open();
    peer = startPeer(args);
    await body(page, peer);
    const problems = await page.get("problems");
    check("no error at the remote peer", problems.length === 0, problems.join("; "));
  } catch (error) {
    check(name, false, error.message);
  }
  if (counts.failed > before) {
    if (peer) console.log(`   ${args[0]} wrote:
${peer.stderr.replace(/^/gm, "      ")}`);
    if (page) console.log(`   the remote peer: ${JSON.stringify(await page.state().catch(String))}`);
  }
  await page?.close();
  await peer?.stop().catch((error) => check(name, false, error.message));
  return counts.failed === before;
}

/** Pings on the page's own channel and on orion-peer's: the pong arrives on the channel of the ping. */
export async function pingBoth(page) {
  for (const [on, id, ts] of [["theirs", "p-1", 1700000000.125], ["own", 77, 1700000001.5]]) {
    const found = await pong(page, on, id, ts);
    check(`ping on the channel ${on} is answered there`, found.on === on && found.ts === ts,
      `id ${found.id}, ts ${found.ts} on ${found.on}`);
  }
}

/** Pings on one channel until a pong arrives, because a channel may lose a message. */
export function pong(page, on, id, ts = 1700000000.125) {
  return until(`a pong to the ping on the channel ${on}`, async () => {
    await page.call("say", on, { t: "ping", id, ts });
    return (await page.get("controls")).find((message) => message.t === "pong" && message.id === id);
  });
}

/** Has `recv` request keyframes until `enough` holds: once a second, so that no request is answered twice. */
export async function askUntil(what, recv, enough) {
  let polls = 0;
  await until(what, () => {
    if (recv.code !== undefined && !enough()) throw new Error(`${recv.name} ended before ${what}`);
    if (polls++ % 20 === 0 && recv.code === undefined) recv.type("/keyframe");
    return enough();
  });
}

/** Memory of a process, bytes. */
export const memory = async (peer) =>
  1024 * Number(/VmRSS:\s*(\d+)/.exec(await readFile(`/proc/${peer.child.pid}/status`, "utf8"))[1]);

/** Starts the servers, runs a whole suite with the signaling server as argument, stops everything, and sets the exit
 * code. */
export async function suite(run) {
  pages = await servePage();
  try {
    server = await startServe();
    await run(server);
    check("serve ends with 0 on Ctrl-C", (await server.serve.stop()) === 0);
  } catch (error) {
    check("the test itself", false, error.stack);
  } finally {
    killAll();
    pages.close();
    if (process.env.KEEP) console.log(`kept ${scratch}`);
    else await rm(scratch, { recursive: true, force: true });
  }
  console.log(`${counts.passed} passed, ${counts.failed} failed`);
  process.exitCode = counts.failed === 0 ? 0 : 1;
}
