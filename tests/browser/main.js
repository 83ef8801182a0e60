// orion-peer with headless Chromium: the whole wire contract, with the page as the Mac and as the phone. Each scenario has
// its own browser page and its own send or recv; each check prints one line. Variations of libwebrtc are in interop.js.

import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { readFile, readdir } from "node:fs/promises";
import path from "node:path";

import { until } from "./process.js";
import {
  COLOURS, COLOUR_SLACK, PHONE, PHONE_SIZE, SAMPLES, askUntil, check, memory, openPage, pingBoth, scenario, scratch,
  suite,
} from "./rig.js";

const KEYFRAMES = 6;
const MAX_BYTES = 100_000;

/** Minimum PSNR of a shown picture compared with its photo, dB. */
const LEAST_PSNR = 30;

const photos = (await readdir(SAMPLES)).filter((name) => name.endsWith(".jpg")).sort();
const mac = () => openPage("mac");
const phone = () => openPage("phone");

/** Sends a text from the page, and checks its ack. */
async function textFromPage(page, peer) {
  await until("the ack of the page's text", async () => {
    await page.call("say", "own", { t: "text", id: "t-1", text: "Grüße from the page" });
    return (await page.get("controls")).find((one) => one.t === "ack" && one.id === "t-1");
  });
  const texts = await until("the text on stdout", () => peer.events("text").map((one) => one.text)[0]);
  check("text from the page arrives and is acknowledged", texts === "Grüße from the page", texts);
}

/** Sends a text to the page. */
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
  await scenario("Chromium as the Mac", { open: mac, peer }, async (page, send) => {
    await page.call("beMac", { iceServers: page.iceServers });
    check("the only subprotocol is orion.v1", (await page.join()) === "orion.v1");
    const ours = await until("the peer's channel", () => page.call("theirChannel"));
    check("control channel is unordered with a lifetime of 100 ms",
      ours.label === "control" && !ours.ordered && ours.life === 100, JSON.stringify(ours));
    await page.call("openChannel");
    await page.call("watch", photos.map((name) => `/samples/${name}`));
    await pingBoth(page);
    const ping = await page.control("the peer's ping", (one) => one.t === "ping");
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
    check("send sends bye", bye !== undefined, bye.reason);
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
  const matches = await until("all samples on the page", async () => {
    const matches = await page.get("matches");
    return Object.values(matches).every((one) => one > LEAST_PSNR) && matches;
  }).catch(() => page.get("matches"));
  for (const [url, match] of Object.entries(matches)) {
    check(`the page shows ${path.basename(url)} in its original size`, match > LEAST_PSNR, `${match?.toFixed(1)} dB`);
  }
}

async function keyframeMessages(page, send, saved) {
  const infos = (await page.get("controls")).filter((one) => one.t === "keyframe");
  check("most keyframes are announced", infos.length >= KEYFRAMES - 1, `${infos.length} messages`);
  let wrong = 0;
  let largest = 0;
  for (const info of infos) {
    const file = path.join(saved, `${String(info.seq).padStart(6, "0")}.h264`);
    const data = existsSync(file) ? await readFile(file) : Buffer.alloc(0);
    const sha256 = createHash("sha256").update(data).digest("hex");
    if (data.length !== info.bytes || sha256 !== info.sha256) wrong += 1;
    largest = Math.max(largest, info.bytes);
  }
  check("size and hash match the saved keyframes", wrong === 0, `${wrong} wrong`);
  check("no keyframe over the budget", largest > 0 && largest <= MAX_BYTES, `largest ${largest}`);
  check("send reports each on stdout", send.events("keyframe").length >= infos.length);
}

/** `keyframe-request` yields a keyframe although the next one is due much later. */
async function request(page, send) {
  await until("the ack of set", async () => {
    await page.call("say", "own", { t: "set", id: 5, intervalMs: 3_600_000 });
    return (await page.get("controls")).find((one) => one.t === "ack" && one.id === 5);
  });
  const before = send.events("keyframe").length;
  const after = await until("the requested keyframe", async () => {
    await page.call("say", "own", { t: "keyframe-request", reason: "test" });
    const count = send.events("keyframe").length;
    return count > before + 1 && count;
  });
  check("keyframe-request yields keyframes before they are due", after > before, `${after - before} more`);
}

/** `set` is applied with an ack, or rejected with an error in the ack. */
async function settings(page) {
  const acked = (id) => until("the ack of set", async () =>
    (await page.get("controls")).find((one) => one.t === "ack" && one.id === id));
  await page.call("say", "own", { t: "set", id: 6, intervalMs: 1 });
  const refused = await acked(6);
  check("a set out of range is rejected in its ack", typeof refused.error === "string", refused.error);
  const { framesDecoded } = await page.call("stats", "inbound-rtp", ["framesDecoded"]);
  await page.call("say", "own", { t: "set", id: 7, intervalMs: 300, width: 320, height: 240 });
  const obeyed = await acked(7);
  const size = await until("smaller pictures", () => page.page.evaluate(() => {
    const video = document.querySelector("video");
    return video.videoWidth > 0 && video.videoWidth <= 320 && [video.videoWidth, video.videoHeight];
  }));
  const now = await page.call("stats", "inbound-rtp", ["framesDecoded"]);
  check("a set is applied: smaller pictures are decoded",
    obeyed.error === undefined && now.framesDecoded > framesDecoded, size.join("x"));
}

async function chromiumAsPhone() {
  const out = path.join(scratch, "frames");
  const peer = ["recv", "--out", out, "--format", "h264,jpg", "--count", String(KEYFRAMES)];
  await scenario("Chromium as the phone", { open: phone, peer }, async (page, recv) => {
    const codecs = await page.page.evaluate(() =>
      RTCRtpSender.getCapabilities("video").codecs.map((codec) => codec.mimeType));
    check("this Chromium encodes H.264", codecs.includes("video/H264"), [...new Set(codecs)].join(" "));
    if (!codecs.includes("video/H264")) return;
    await page.join();
    await page.call("bePhone", { iceServers: page.iceServers, ...PHONE });
    await until("the first keyframe", () => recv.events("keyframe").length >= 1);
    await pingBoth(page);
    const ping = await page.control("the peer's ping", (one) => one.t === "ping");
    check("orion-peer pings", typeof ping.ts === "number", `id ${ping.id}`);
    await textToPage(page, recv);
    await textFromPage(page, recv);
    await askUntil("a requested keyframe", recv, () => recv.events("keyframe").length >= 2);
    const asked = (await page.get("controls")).filter((one) => one.t === "keyframe-request");
    check("keyframe-request yields a keyframe", asked.length > 0, `${asked.length} requests`);
    await loss(page, recv);
    await askUntil("recv to reach its count", recv, () => recv.code !== undefined);
    check("recv ends with 0 after its count", (await recv.ended()) === 0);
    await received(page, recv, out);
  });
}

/** A peer that opens a thousand channels and sends long messages: keyframes continue, memory does not grow. */
async function floods() {
  const out = path.join(scratch, "flooded");
  await scenario("Chromium floods data channels", { open: phone, peer: ["recv", "--out", out] },
    async (page, recv) => {
      await page.join();
      await page.call("bePhone", { iceServers: page.iceServers, ...PHONE });
      await until("the first keyframe", () => recv.events("keyframe").length >= 1);
      const before = await memory(recv);
      const sent = await page.call("flood", { channels: 1000, messages: 400, bytes: 60_000 });
      const stored = recv.events("keyframe").length;
      await askUntil("2 more keyframes", recv, () => recv.events("keyframe").length >= stored + 2);
      const grown = (await memory(recv)) - before;
      check("keyframes continue and memory is stable", grown < 64e6,
        `${(grown / 1e6).toFixed(1)} MB more after ${JSON.stringify(sent)}`);
      check("it is reported once", recv.stderr.split("more than 16 data channels").length === 2);
      check("recv ends with 0", (await recv.stop()) === 0);
    });
}

/** A picture that never arrives: recv requests a keyframe by itself. */
async function loss(page, recv) {
  const names = ["pliCount", "keyFramesEncoded", "framesEncoded"];
  const count = () => page.call("stats", "outbound-rtp", names);
  // Earlier requests must be finished: nothing new for a second.
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
  check("frames.jsonl has one line per keyframe", lines.length === KEYFRAMES, `${lines.length} lines`);
  for (const line of lines) {
    const data = await readFile(path.join(out, line.file));
    const sha256 = createHash("sha256").update(data).digest("hex");
    check(`${line.file} matches its line`,
      data.length === line.bytes && sha256 === line.sha256 && line.width === PHONE_SIZE.width &&
      line.height === PHONE_SIZE.height, `${line.width}x${line.height}, ${line.bytes} bytes`);
    const jpg = await readFile(path.join(out, line.file.replace(".h264", ".jpg")));
    const decoded = await page.call("quarters", `data:image/jpeg;base64,${jpg.toString("base64")}`);
    const off = Math.max(...decoded.means.flatMap((mean, quarter) =>
      mean.map((value, c) => Math.abs(value - COLOURS[quarter][c]))));
    check("its jpg matches the page's canvas", decoded.width === PHONE_SIZE.width &&
      decoded.height === PHONE_SIZE.height && off <= COLOUR_SLACK, `colors off by at most ${off} of 255`);
  }
  const summary = recv.events("summary").at(-1) ?? {};
  check("its pings were answered by the page", summary.rttMs?.count > 0, JSON.stringify(summary.rttMs));
}

await suite(async () => {
  const only = process.env.ONLY;
  for (const one of [chromiumAsMac, chromiumAsPhone, floods]) {
    if (!only || one.name === only) await one();
  }
});
