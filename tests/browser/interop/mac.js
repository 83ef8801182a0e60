// Chromium as the Mac: variations of its answer to `send`.

import { execFile } from "node:child_process";
import { mkdir, readFile, readdir, writeFile } from "node:fs/promises";
import path from "node:path";
import { promisify } from "node:util";

import { until } from "../process.js";
import { BINARY, LOCAL, SAMPLES, check, openPage } from "../rig.js";
import { folder, needsAddress, pings, refused, shown, stops } from "./expect.js";

const PATTERN = ["--source", "pattern:320x240", "--interval", "0.3s"];

/** Minimum PSNR of the shown picture compared with the picture in the keyframe, and with its photo, dB. */
const LEAST_PSNR = 30;

/** A Mac that answers as given by `answer`, and decodes keyframes; then the checks of `more`. */
export function mac({ name, does, seen, answer = {}, args = PATTERN, show = "", flags = LOCAL, count = 3, more = () => {}, result }) {
  return {
    name, does: `Mac: ${does}`, ours: `send${show}`, seen: seen ?? "keyframes decoded, pings", result,
    async open() {
      const page = await openPage("mac", flags);
      if (answer.offers) await page.join();
      await page.call("beMac", { iceServers: page.iceServers, ...answer });
      if (!answer.offers) await page.join();
      return page;
    },
    peer: ["send", ...args],
    async body(page, send) {
      await until("the peer's channel", () => page.call("theirChannel"));
      if (!answer.offers) await page.call("openChannel");
      await shown(page, count);
      await more(page, send);
      await pings(page, send);
      await stops(send);
    },
  };
}

/** Changes the profile in our offer. */
const offered = (profile) => ({ received: [["profile-level-id=42e01f", `profile-level-id=${profile}`]] });

/** The pictures as they are sent: encoded once by us, decoded by our decoder, and then sent unchanged. */
async function encoded(out) {
  const demo = ["demo", "--source", SAMPLES, "--interval", "0.2s", "--count", "3", "--format", "h264,png", "--out", out];
  await promisify(execFile)(BINARY, demo);
  const names = (await readdir(out)).filter((name) => name.endsWith(".h264")).sort();
  const units = await Promise.all(names.map((name) => readFile(path.join(out, name))));
  await writeFile(path.join(out, "all.h264"), Buffer.concat(Array(10).fill(units).flat()));
  return names.map((name) => `/scratch/${path.basename(out)}/${name.replace(".h264", ".png")}`);
}

/** Chromium shows each picture like our decoder and like the photo, with another decoder and another matrix from YUV to RGB
 * for the same bytes. */
function likeness() {
  const name = "mac_likeness";
  const out = folder(name);
  let pictures;
  return {
    name, does: "Mac: shows photos on a canvas", ours: "send", seen: `over ${LEAST_PSNR} dB compared with the picture in the keyframe and with the photo`,
    async open() {
      await mkdir(out, { recursive: true });
      pictures = await encoded(out);
      return openPage("mac");
    },
    peer: ["send", "--source", path.join(out, "all.h264"), "--interval", "0.5s"],
    async body(page, send) {
      const photos = (await readdir(SAMPLES)).filter((name) => name.endsWith(".jpg")).map((name) => `/samples/${name}`);
      await page.call("watch", [...pictures, ...photos]);
      await page.call("beMac", { iceServers: page.iceServers });
      await page.join();
      const matches = await until("all pictures on the page", async () => {
        const matches = await page.get("matches");
        return Object.values(matches).every((one) => one > LEAST_PSNR) && matches;
      }).catch(() => page.get("matches"));
      for (const [url, match] of Object.entries(matches)) {
        check(`the page shows ${path.basename(url)}`, match > LEAST_PSNR, `${match?.toFixed(1)} dB`);
      }
      await shown(page, 3);
      await stops(send);
    },
  };
}

const BIG = { width: 3840, height: 2160 };

/** With the largest pattern, the offer has level 5.1. */
async function big(page) {
  const lines = await page.call("described", "video", "a=fmtp:");
  check("the offer has 42e033", lines.some((line) => line.includes("profile-level-id=42e033")), lines.join(" | "));
  const size = await page.page.evaluate(() => {
    const video = document.querySelector("video");
    return [video.videoWidth, video.videoHeight];
  });
  check("the picture is as large as it was sent", size[0] === BIG.width && size[1] === BIG.height, size.join("x"));
}

const negotiated = (kind) => async (page) => {
  const { sdp, remote } = await page.page.evaluate(() => ({
    sdp: window.peer.pc.localDescription.sdp, remote: window.peer.pc.remoteDescription.sdp,
  }));
  check(`both descriptions are ${kind}`, /^a=group:BUNDLE 0 1/m.test(sdp) && /^a=group:BUNDLE 0 1/m.test(remote),
    `${/^a=group.*/m.exec(remote)} answered by ${/^a=group.*/m.exec(sdp)}`.replaceAll("\r", ""));
};

/** orion-peer receives nothing for 4 s and restarts ICE on the same connection; here it was suspended. */
async function restart(page, send) {
  const decoded = async () => (await page.call("stats", "inbound-rtp", ["framesDecoded"])).framesDecoded;
  const before = await page.call("ice");
  const since = Date.now();
  send.child.kill("SIGSTOP");
  await until("Chromium to miss it", async () =>
    (await page.call("ice")).iceConnectionState === "disconnected" && Date.now() > since + 5000);
  send.child.kill("SIGCONT");
  await until("the restart", () => /looking for another path/.test(send.stderr));
  await until("its end", () => /connected to the receiver again/.test(send.stderr));
  const count = await decoded();
  await until("2 more decoded keyframes", async () => (await decoded()) >= count + 2);
  const after = await page.call("ice");
  check("both have new credentials on the same connection",
    after.local !== before.local && after.remote !== before.remote && after.connectionState === "connected",
    JSON.stringify({ before, after }));
}

/** Its offer is a request: send, the impolite peer, replaces it with its own. */
async function restartsItself(page, send) {
  const decoded = async () => (await page.call("stats", "inbound-rtp", ["framesDecoded"])).framesDecoded;
  const before = await page.call("ice");
  await page.call("restartIce");
  await until("new credentials of both", async () => {
    const now = await page.call("ice");
    return now.remote !== before.remote && now.local !== before.local && now.connectionState === "connected";
  });
  const count = await decoded();
  await until("3 more decoded keyframes", async () => (await decoded()) >= count + 3);
  check("send reports the reason", /the peer requested an ICE restart: looking for another path/.test(send.stderr));
  check("on the same connection", !/starts a new connection/.test(send.stderr));
}

async function hidden(page) {
  const names = await page.get("candidates");
  check("its candidates were only .local names", names.length > 0 && names.every((one) => one.includes(".local")), `${names.length}`);
}

/** Every sent keyframe is decoded despite the loss. */
async function repaired(page, send) {
  const lost = await until("losses", async () => {
    const stats = await page.call("stats", "inbound-rtp", ["nackCount", "framesDecoded", "keyFramesDecoded", "retransmittedPacketsReceived"]);
    return stats.nackCount > 0 && stats.framesDecoded >= 6 && stats;
  });
  const sent = send.events("keyframe").length;
  check("all except those in flight are decoded", lost.framesDecoded >= sent - 2, `${sent} sent, ${JSON.stringify(lost)}`);
}

function refusedMac({ name, does, answer, words }) {
  return {
    name, does: `Mac: ${does}`, ours: "send", seen: "exit code 1, the error message",
    open: () => openPage("mac"),
    peer: ["send", ...PATTERN],
    async body(page, send) {
      await page.call("beMac", { iceServers: page.iceServers, ...answer });
      await page.join();
      return refused(send, words);
    },
  };
}

export const macRows = [
  likeness(),
  mac({ name: "mac_42e033", does: `is offered 42e033, for pictures of ${BIG.width}x${BIG.height}`, more: big,
    args: ["--source", `pattern:${BIG.width}x${BIG.height}`, "--interval", "2s"] }),
  mac({ name: "mac_42e034", does: "is offered 42e034", answer: offered("42e034") }),
  refusedMac({ name: "mac_640c1f", does: "is offered 640c1f, which this Chromium does not decode", answer: offered("640c1f"),
    words: /no H\.264 video/ }),
  refusedMac({ name: "mac_mode0", does: "supports only packetization mode 0", words: /H\.264/,
    answer: { codec: "video/H264", fmtp: "packetization-mode=0" } }),
  refusedMac({ name: "mac_vp8", does: "supports only VP8", words: /no H\.264 video/, answer: { codec: "video/VP8" } }),
  mac({ name: "mac_loss", does: "5 % of the packets lost in each direction", show: " --loss 5%", more: repaired,
    args: ["--source", SAMPLES, "--interval", "0.5s", "--loss", "5%"], count: 6, seen: "every keyframe decoded, repaired by NACK" }),
  mac({ name: "mac_half_trickle", does: "half-trickle: one answer with all candidates", answer: { halfTrickle: true } }),
  mac({ name: "mac_max_bundle", does: "BUNDLE policy max-bundle", answer: { bundle: "max-bundle" }, more: negotiated("bundled") }),
  mac({ name: "mac_max_compat", does: "BUNDLE policy max-compat", answer: { bundle: "max-compat" }, more: negotiated("bundled") }),
  mac({ name: "mac_offers", does: "offers itself, and accepts our offer instead (glare)", answer: { offers: true } }),
  mac({ name: "mac_restart", does: "orion-peer restarts ICE", more: restart, seen: "keyframes continue over the same connection" }),
  mac({ name: "mac_restarts", does: "restarts ICE itself", more: restartsItself,
    seen: "`send` offers instead; keyframes continue over the same connection" }),
  needsAddress(mac({ name: "mac_mdns", does: "only `.local` candidates (mDNS)", answer: { iceServers: [], keep: "local", deaf: true }, flags: [],
    more: hidden })),
];
