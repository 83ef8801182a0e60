// orion-peer against headless Chromium: a serve on a free port, the page as the Mac and as the phone.
// Each scenario has its own browser page and its own send or recv; each check is one line.

import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdtemp, readFile, readdir, rm } from "node:fs/promises";
import http from "node:http";
import { networkInterfaces, tmpdir } from "node:os";
import path from "node:path";

import { chromium } from "playwright-core";

import { Peer, killAll, until } from "./process.js";

const BINARY = process.env.ORION_PEER;
const SAMPLES = path.resolve(import.meta.dirname, "../../samples");
const KEYFRAMES = 6;
const MAX_BYTES = 100_000;

/** Least likeness of a shown picture to the photo it was made from, dB. */
const LEAST_PSNR = 28;

/** Quarters of the phone's picture, and how far a decoded mean may be off. */
const COLOURS = [[200, 40, 40], [40, 160, 60], [40, 60, 190], [150, 150, 150]];
const COLOUR_SLACK = 12;
const PHONE_SIZE = { width: 640, height: 480 };

const FLAGS = [
  "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync",
];

/** Real addresses as candidates, loopback too: works with no network at all. */
const LOCAL = ["--allow-loopback-in-peer-connection", "--disable-features=WebRtcHideLocalIpsWithMdns"];

let passed = 0;
let failed = 0;

function check(name, ok, detail = "") {
  if (ok) passed += 1;
  else failed += 1;
  console.log(`${ok ? "pass" : "FAIL"}  ${name}${detail === "" ? "" : `: ${detail}`}`);
}

const scratch = await mkdtemp(path.join(tmpdir(), "orion-browser-"));
const photos = (await readdir(SAMPLES)).filter((name) => name.endsWith(".jpg")).sort();

/** Serves the page and the sample photos. */
async function servePage() {
  const types = { ".html": "text/html", ".js": "text/javascript", ".jpg": "image/jpeg" };
  const server = http.createServer(async (request, response) => {
    const name = request.url === "/" ? "index.html" : path.basename(request.url);
    const folder = request.url.startsWith("/samples/") ? SAMPLES : path.join(import.meta.dirname, "page");
    try {
      const body = await readFile(path.join(folder, name));
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

/** What the token API answers a device. */
async function fetchToken(deviceId) {
  const answer = await fetch(`${server.http}/api/auth/webrtc-token`, {
    method: "POST",
    headers: { Authorization: "Bearer dev", "Content-Type": "application/json" },
    body: JSON.stringify({ deviceId }),
  });
  if (answer.status !== 200) throw new Error(`token API: ${answer.status} ${await answer.text()}`);
  return answer.json();
}

/** A page in a browser of its own, in the room as `deviceId`; `ice` are its ICE servers. */
async function openPage(deviceId, flags = LOCAL) {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM, headless: false, chromiumSandbox: false,
    args: [...FLAGS, ...flags],
  });
  const page = await browser.newPage();
  await page.goto(`http://127.0.0.1:${pages.address().port}/`);
  await page.waitForFunction(() => window.peer);
  const { token, pairId, iceServers } = await fetchToken(deviceId);
  const call = (name, ...args) =>
    page.evaluate(([name, args]) => window.peer[name](...args), [name, args]);
  const get = (name) => page.evaluate((name) => window.peer[name], name);
  return {
    browser, page, call, get, iceServers, deviceId,
    join: () => call("join", { signal: `${server.signal}/api/signal`, token, pairId }),
    /** The first control message that fits. */
    control: (what, fits) => until(what, async () => (await get("controls")).find(fits)),
  };
}

/** Runs `body` with a page and a peer, and shows both sides' words when it fails. */
async function scenario(name, { page: [device, flags], peer: args }, body) {
  console.log(`-- ${name}`);
  let page;
  let peer;
  try {
    page = await openPage(device, flags);
    peer = new Peer(BINARY, [args[0], "--json", "--signal", server.signal, "--timeout", "40s", ...args.slice(1)]);
    const before = failed;
    await body(page, peer);
    const problems = await page.get("problems");
    check("no error on the page", problems.length === 0, problems.join("; "));
    if (failed > before) throw new Error("a check failed");
  } catch (error) {
    if (error.message !== "a check failed") check(name, false, error.message);
    if (peer) console.log(`   ${args[0]} said:\n${peer.stderr.replace(/^/gm, "      ")}`);
    if (page) console.log(`   page: ${JSON.stringify(await page.page.evaluate(() => {
      const { transformed, problems, matches, controls, signals } = window.peer;
      const heard = controls.slice(-20);
      return { transformed: transformed.slice(-10), problems, matches, heard, signals: signals.map((one) => one.t) };
    }).catch(String))}`);
  } finally {
    await page?.browser.close();
    await peer?.stop();
  }
}

/** Pings on the page's own channel and on theirs: the pong comes back where the ping went. */
async function pingBoth(page) {
  for (const [on, id, ts] of [["theirs", "p-1", 1700000000.125], ["own", 77, 1700000001.5]]) {
    const pong = (message) => message.t === "pong" && message.id === id;
    // The channel may lose a message: ask until one is answered.
    const found = await until(`a pong on the channel ${on}`, async () => {
      await page.call("say", on, { t: "ping", id, ts });
      return (await page.get("controls")).find(pong);
    });
    check(`ping on the channel ${on} is answered there`, found.on === on && found.ts === ts,
      `id ${found.id}, ts ${found.ts} on ${found.on}`);
  }
}

/** Text from the page, with its ack. */
async function textFromPage(page, peer) {
  await until("the ack of the page's text", async () => {
    await page.call("say", "own", { t: "text", id: "t-1", text: "Grüße from the page" });
    return (await page.get("controls")).find((one) => one.t === "ack" && one.id === "t-1");
  });
  const texts = await until("the text on stdout", () => peer.events("text").map((one) => one.text)[0]);
  check("text from the page arrives and is acknowledged", texts === "Grüße from the page", texts);
}

/** Text to the page. */
async function textToPage(page, peer) {
  const text = await until("a text on the page", async () => {
    peer.type("hello from orion-peer");
    return (await page.get("controls")).find((one) => one.t === "text");
  });
  check("text to the page arrives", text.text === "hello from orion-peer", text.text);
}

async function chromiumAsMac() {
  const saved = path.join(scratch, "saved");
  const peer = ["send", "--source", SAMPLES, "--interval", "0.5s", "--save", saved];
  await scenario("Chromium as the Mac", { page: ["mac"], peer }, async (page, send) => {
    await page.call("beMac", { iceServers: page.iceServers });
    check("subprotocol is orion.v1 alone", (await page.join()) === "orion.v1");
    const ours = await until("their channel", () => page.call("theirChannel"));
    check("control channel is unordered with 100 ms of life",
      ours.label === "control" && !ours.ordered && ours.life === 100, JSON.stringify(ours));
    await page.call("openControl");
    await page.call("watch", photos.map((name) => `/samples/${name}`));
    await pingBoth(page);
    const ping = await page.control("their ping", (one) => one.t === "ping");
    check("orion-peer pings", typeof ping.ts === "number", `id ${ping.id}`);
    await textToPage(page, send);
    await textFromPage(page, send);
    await decoded(page);
    await keyframeMessages(page, send, saved);
    await request(page, send);
    await settings(page, send);
    if (process.env.SCREENSHOT) await page.page.screenshot({ path: process.env.SCREENSHOT });
    const pair = await page.call("pair");
    check("the connection is direct", pair !== null && !pair.includes("relay"), pair);
    check("send ends with 0 on Ctrl-C", (await send.stop()) === 0);
    const bye = await until("bye", async () => (await page.get("signals")).find((one) => one.t === "bye"));
    check("send says bye", bye !== undefined, bye.reason);
    const summary = send.events("summary").at(-1) ?? {};
    const rtt = summary.rttMs;
    check("its pings were answered by the page", rtt?.count > 0, JSON.stringify(rtt));
  });
}

async function decoded(page) {
  const names = ["framesDecoded", "framesDropped", "keyFramesDecoded", "framesReceived"];
  const stats = await until(`${KEYFRAMES} decoded keyframes`, async () => {
    const stats = await page.call("stats", "inbound-rtp", names);
    return stats.framesDecoded >= KEYFRAMES && stats;
  });
  check("Chromium decodes every picture as a keyframe",
    stats.framesDecoded === stats.keyFramesDecoded, JSON.stringify(stats));
  const matches = await until("all samples on the screen", async () => {
    const matches = await page.get("matches");
    return Object.values(matches).every((one) => one > LEAST_PSNR) && matches;
  }).catch(() => page.get("matches"));
  for (const [url, match] of Object.entries(matches)) {
    check(`the page shows ${path.basename(url)} in its size`, match > LEAST_PSNR, `${match?.toFixed(1)} dB`);
  }
}

async function keyframeMessages(page, send, saved) {
  const infos = (await page.get("controls")).filter((one) => one.t === "keyframe");
  check("a message for most keyframes", infos.length >= KEYFRAMES - 1, `${infos.length} messages`);
  let wrong = 0;
  let largest = 0;
  for (const info of infos) {
    const file = path.join(saved, `${String(info.seq).padStart(6, "0")}.h264`);
    const data = existsSync(file) ? await readFile(file) : Buffer.alloc(0);
    const sha256 = createHash("sha256").update(data).digest("hex");
    if (data.length !== info.bytes || sha256 !== info.sha256) wrong += 1;
    largest = Math.max(largest, info.bytes);
  }
  check("size and hash are those of the saved keyframes", wrong === 0, `${wrong} wrong`);
  check("no keyframe over the budget", largest > 0 && largest <= MAX_BYTES, `largest ${largest}`);
  check("send told of each on stdout", send.events("keyframe").length >= infos.length);
}

/** `keyframe-request`: a keyframe although the next tick is far away. */
async function request(page, send) {
  await until("the ack of set", async () => {
    await page.call("say", "own", { t: "set", id: 5, intervalMs: 3_600_000 });
    return (await page.get("controls")).find((one) => one.t === "ack" && one.id === 5);
  });
  const before = send.events("keyframe").length;
  const after = await until("the keyframe asked for", async () => {
    await page.call("say", "own", { t: "keyframe-request", reason: "test" });
    const count = send.events("keyframe").length;
    return count > before + 1 && count;
  });
  check("keyframe-request gives keyframes an hour early", after > before, `${after - before} more`);
}

/** `set`: obeyed with an ack, refused with an error in the ack. */
async function settings(page) {
  const acked = (id) => until("the ack of set", async () =>
    (await page.get("controls")).find((one) => one.t === "ack" && one.id === id));
  await page.call("say", "own", { t: "set", id: 6, intervalMs: 1 });
  const refused = await acked(6);
  check("a set out of range is refused in its ack", typeof refused.error === "string", refused.error);
  const { framesDecoded } = await page.call("stats", "inbound-rtp", ["framesDecoded"]);
  await page.call("say", "own", { t: "set", id: 7, intervalMs: 300, width: 320, height: 240 });
  const obeyed = await acked(7);
  const size = await until("smaller pictures", () => page.page.evaluate(() => {
    const video = document.querySelector("video");
    return video.videoWidth > 0 && video.videoWidth <= 320 && [video.videoWidth, video.videoHeight];
  }));
  const now = await page.call("stats", "inbound-rtp", ["framesDecoded"]);
  check("a set is obeyed: smaller pictures are decoded",
    obeyed.error === undefined && now.framesDecoded > framesDecoded, size.join("x"));
}

/** Chromium hides its addresses behind mDNS names by default: we resolve them or stay alone, for the page takes
 * none of our candidates. */
async function defaultCandidates() {
  const outward = Object.values(networkInterfaces()).flat().some((one) => !one.internal && one.family === "IPv4");
  if (!outward) {
    console.log("-- Chromium with its default candidates: not run, it needs an address that is not loopback");
    return;
  }
  const peer = ["send", "--source", "pattern:320x240", "--interval", "0.3s"];
  await scenario("Chromium as the Mac behind .local names", { page: ["mac", []], peer }, async (page) => {
    await page.call("beMac", { iceServers: [], hidden: true });
    await page.join();
    const stats = await until("3 decoded keyframes", async () => {
      const stats = await page.call("stats", "inbound-rtp", ["framesDecoded"]);
      return stats.framesDecoded >= 3 && stats;
    });
    const names = await page.get("candidates");
    check("its candidates were .local names alone",
      names.length > 0 && names.every((one) => one.includes(".local")), `${names.length} of them`);
    check("keyframes are decoded", stats.framesDecoded >= 3, await page.call("pair"));
  });
}

async function chromiumAsPhone() {
  const out = path.join(scratch, "frames");
  const peer = ["recv", "--out", out, "--format", "h264,jpg", "--count", String(KEYFRAMES)];
  await scenario("Chromium as the phone", { page: ["phone"], peer }, async (page, recv) => {
    const codecs = await page.page.evaluate(() =>
      RTCRtpSender.getCapabilities("video").codecs.map((codec) => codec.mimeType));
    check("this Chromium encodes H.264", codecs.includes("video/H264"), [...new Set(codecs)].join(" "));
    if (!codecs.includes("video/H264")) return;
    await page.join();
    await page.call("bePhone", {
      iceServers: page.iceServers, codec: "video/H264", ...PHONE_SIZE, colours: COLOURS,
    });
    await until("the first keyframe", () => recv.events("keyframe").length >= 1);
    await pingBoth(page);
    const ping = await page.control("their ping", (one) => one.t === "ping");
    check("orion-peer pings", typeof ping.ts === "number", `id ${ping.id}`);
    await textToPage(page, recv);
    await textFromPage(page, recv);
    // The data channel may lose the request: once a second, so that one is not answered twice.
    let polls = 0;
    await until("a keyframe that was asked for", async () => {
      if (polls++ % 20 === 0) recv.type("/keyframe");
      return recv.events("keyframe").length >= 2;
    });
    const asked = (await page.get("controls")).filter((one) => one.t === "keyframe-request");
    check("keyframe-request brings a keyframe", asked.length > 0, `${asked.length} requests`);
    await loss(page, recv);
    await until("recv to reach its count", async () => {
      if (polls++ % 20 === 0) recv.type("/keyframe");
      return recv.code !== undefined;
    });
    check("recv ends with 0 after its count", (await recv.ended()) === 0);
    await received(page, recv, out);
  });
}

/** A phone that speaks the contract and tells nothing of its keyframes: bench says what it could not measure. */
async function chromiumIsMeasured() {
  const load = ["--connections", "1", "--warmup", "0", "--pings", "50", "--keyframes", "3", "--interval", "500ms"];
  await scenario("Chromium as the phone of a bench", { page: ["phone"], peer: ["bench", "--role", "recv", ...load] },
    async (page, bench) => {
      await page.join();
      await page.call("bePhone", {
        iceServers: page.iceServers, codec: "video/H264", ...PHONE_SIZE, colours: COLOURS,
      });
      const code = await bench.ended();
      check("bench ends with 0", code === 0, `code ${code}`);
      const result = JSON.parse(bench.stdout);
      const { connections, rttMs, keyframes, notMeasured } = result;
      check("the connection succeeded", connections.succeeded === 1, JSON.stringify(connections.byType));
      check("Chromium's pongs are measured", rttMs.count > 0, `${rttMs.count} of ${rttMs.sent}, p50 ${rttMs.p50} ms`);
      check("its keyframes came whole", keyframes.received === 3, `${keyframes.received}, mean ${keyframes.bytes.mean} bytes`);
      check("what it does not tell is not made up", keyframes.intact === null && keyframes.latencyMs.count === 0
        && notMeasured.some((one) => one.what === "keyframes.intact"), notMeasured.map((one) => one.what).join(", "));
    });
}

/** Our side hears nothing for 4 s and restarts ICE on the same connection; here it was asleep. */
async function iceRestartByUs() {
  const peer = ["send", "--source", "pattern:320x240", "--interval", "0.3s"];
  await scenario("ICE restart by send", { page: ["mac"], peer }, async (page, send) => {
    await page.call("beMac", { iceServers: page.iceServers });
    await page.join();
    const decoded = async () => (await page.call("stats", "inbound-rtp", ["framesDecoded"])).framesDecoded;
    await until("2 decoded keyframes", async () => (await decoded()) >= 2);
    const before = await page.call("ice");
    send.child.kill("SIGSTOP");
    await new Promise((resolve) => setTimeout(resolve, 6000));
    send.child.kill("SIGCONT");
    await until("the restart", () => /looking for another way/.test(send.stderr));
    await until("its end", () => /connected to the receiver again/.test(send.stderr));
    const count = await decoded();
    await until("2 more decoded keyframes", async () => (await decoded()) >= count + 2);
    const after = await page.call("ice");
    check("both have new credentials on the same connection",
      after.local !== before.local && after.remote !== before.remote && after.connectionState === "connected",
      JSON.stringify({ before, after }));
  });
}

async function iceRestartByChromium() {
  const peer = ["recv", "--out", path.join(scratch, "restarted")];
  await scenario("ICE restart by Chromium", { page: ["phone"], peer }, async (page, recv) => {
    await page.join();
    await page.call("bePhone", { iceServers: page.iceServers, codec: "video/H264", ...PHONE_SIZE, colours: COLOURS });
    await until("the first keyframe", () => recv.events("keyframe").length >= 1);
    const before = await page.call("ice");
    await page.call("restartIce");
    await until("new credentials", async () => (await page.call("ice")).remote !== before.remote);
    const stored = recv.events("keyframe").length;
    let polls = 0;
    await until("2 more keyframes", () => {
      if (polls++ % 20 === 0) recv.type("/keyframe");
      return recv.events("keyframe").length >= stored + 2;
    });
    const after = await page.call("ice");
    check("the connection goes on with new credentials",
      after.local !== before.local && after.connectionState === "connected", JSON.stringify({ before, after }));
    check("recv has kept it", !/starts a new connection/.test(recv.stderr));
    check("recv ends with 0", (await recv.stop()) === 0);
  });
}

/** An app may offer more than a video: what recv has no use for is refused, and the video comes. */
async function extraLines() {
  const out = path.join(scratch, "extra");
  await scenario("Chromium offers sound and a second video, too", { page: ["phone"], peer: ["recv", "--out", out] },
    async (page, recv) => {
      await page.join();
      await page.call("bePhone", {
        iceServers: page.iceServers, codec: "video/H264", ...PHONE_SIZE, colours: COLOURS, extra: true,
      });
      await until("the first keyframe", () => recv.events("keyframe").length >= 1);
      const lines = await page.call("answered");
      check("the video is taken, sound is refused",
        lines.some((line) => /^m=video [1-9]/.test(line)) && lines.some((line) => line === "m=audio 0"), lines.join(", "));
      await pingBoth(page);
      check("recv ends with 0", (await recv.stop()) === 0);
    });
}

/** Memory of a process, bytes. */
const memory = async (peer) =>
  1024 * Number(/VmRSS:\s*(\d+)/.exec(await readFile(`/proc/${peer.child.pid}/status`, "utf8"))[1]);

/** A peer that opens a thousand channels and sends long messages: keyframes go on, memory does not grow. */
async function floods() {
  const out = path.join(scratch, "flooded");
  await scenario("Chromium floods data channels", { page: ["phone"], peer: ["recv", "--out", out] },
    async (page, recv) => {
      await page.join();
      await page.call("bePhone", { iceServers: page.iceServers, codec: "video/H264", ...PHONE_SIZE, colours: COLOURS });
      await until("the first keyframe", () => recv.events("keyframe").length >= 1);
      const before = await memory(recv);
      const sent = await page.call("flood", { channels: 1000, messages: 400, bytes: 60_000 });
      const stored = recv.events("keyframe").length;
      let polls = 0;
      await until("2 more keyframes", () => {
        if (polls++ % 20 === 0) recv.type("/keyframe");
        return recv.events("keyframe").length >= stored + 2;
      });
      const grown = (await memory(recv)) - before;
      check("keyframes go on and memory stays", grown < 64e6,
        `${(grown / 1e6).toFixed(1)} MB more after ${JSON.stringify(sent)}`);
      check("it is told once", recv.stderr.split("more than 16 data channels").length === 2);
      check("recv ends with 0", (await recv.stop()) === 0);
    });
}

/** A picture that never comes: recv asks for a keyframe by itself. */
async function loss(page, recv) {
  const names = ["pliCount", "keyFramesEncoded", "framesEncoded"];
  const count = () => page.call("stats", "outbound-rtp", names);
  // What was asked for before has to be over: nothing new for a second.
  let before = await count();
  await until("a second without requests", async () => {
    const last = before;
    await new Promise((resolve) => setTimeout(resolve, 1000));
    before = await count();
    return before.pliCount === last.pliCount && before.keyFramesEncoded === last.keyFramesEncoded;
  });
  const stored = recv.events("keyframe").length;
  await page.page.evaluate(() => window.peer.worker.postMessage({ lose: 1 }));
  await until("the keyframe after the loss", () => recv.events("keyframe").length > stored);
  const lost = (await page.get("transformed")).filter((one) => one.lost !== undefined).length;
  const after = await count();
  check("a lost picture makes recv send a PLI, and Chromium a keyframe",
    lost === 1 && after.pliCount > before.pliCount && after.keyFramesEncoded > before.keyFramesEncoded,
    JSON.stringify(after));
}

async function received(page, recv, out) {
  const lines = (await readFile(path.join(out, "frames.jsonl"), "utf8")).trim().split("\n").map(JSON.parse);
  check("frames.jsonl has a line a keyframe", lines.length === KEYFRAMES, `${lines.length} lines`);
  for (const line of lines) {
    const data = await readFile(path.join(out, line.file));
    const sha256 = createHash("sha256").update(data).digest("hex");
    check(`${line.file} is what the line says`,
      data.length === line.bytes && sha256 === line.sha256 && line.width === PHONE_SIZE.width &&
      line.height === PHONE_SIZE.height, `${line.width}x${line.height}, ${line.bytes} bytes`);
    const jpg = await readFile(path.join(out, line.file.replace(".h264", ".jpg")));
    const seen = await page.call("quarters", `data:image/jpeg;base64,${jpg.toString("base64")}`);
    const off = Math.max(...seen.means.flatMap((mean, quarter) =>
      mean.map((value, c) => Math.abs(value - COLOURS[quarter][c]))));
    check("the jpg beside it is the page's canvas", seen.width === PHONE_SIZE.width &&
      seen.height === PHONE_SIZE.height && off <= COLOUR_SLACK, `colours off by ${off} of 255 at most`);
  }
  const summary = recv.events("summary").at(-1) ?? {};
  check("its pings were answered by the page", summary.rttMs?.count > 0, JSON.stringify(summary.rttMs));
}

async function withoutH264() {
  const out = path.join(scratch, "none");
  const said = (peer) => peer.stderr.trim().split("\n").slice(-3).join(" | ");
  await scenario("Chromium as the phone offers VP8 alone", { page: ["phone"], peer: ["recv", "--out", out] },
    async (page, recv) => {
      await page.join();
      await page.call("bePhone", {
        iceServers: page.iceServers, codec: "video/VP8", ...PHONE_SIZE, colours: COLOURS,
      });
      const code = await recv.ended();
      check("recv ends with 1", code === 1, `code ${code}`);
      check("it names H.264 and what was offered", /H\.264/.test(recv.stderr) && /VP8/.test(recv.stderr), said(recv));
    });
  const peer = ["send", "--source", "pattern:320x240"];
  await scenario("Chromium as the Mac answers without H.264", { page: ["mac"], peer }, async (page, send) => {
    await page.call("beMac", { iceServers: page.iceServers, codec: "video/VP8" });
    await page.join();
    const code = await send.ended();
    check("send ends with 1", code === 1, `code ${code}`);
    check("it names H.264", /H\.264/.test(send.stderr), said(send));
  });
}

const pages = await servePage();
let server;
try {
  server = await startServe();
  const only = process.env.ONLY;
  for (const one of [chromiumAsMac, chromiumAsPhone, chromiumIsMeasured, iceRestartByUs, iceRestartByChromium,
    extraLines, floods, defaultCandidates, withoutH264]) {
    if (!only || one.name === only) await one();
  }
  check("serve ends with 0 on Ctrl-C", (await server.serve.stop()) === 0);
} catch (error) {
  check("the test itself", false, error.stack);
} finally {
  killAll();
  pages.close();
  if (process.env.KEEP) console.log(`kept ${scratch}`);
  else await rm(scratch, { recursive: true, force: true });
}
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed === 0 ? 0 : 1;
