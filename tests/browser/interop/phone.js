// Chromium as the phone: variations of its offer to `recv`.

import { readFile } from "node:fs/promises";

import { until } from "../process.js";
import { LOCAL, PHONE, askUntil, check, memory, openPage, pingBoth } from "../rig.js";
import { coloured, folder, needsAddress, pings, refused, stops, stored } from "./expect.js";

/** A phone that offers as given by `offer`, and whose keyframes arrive; then the checks of `more`. Unless `announced`, its
 * announcements may get lost. */
export function phone({ name, does, seen, offer = {}, args = [], flags = LOCAL, announced = true, more = () => {} }) {
  const out = folder(name);
  return {
    name, does: `phone: ${does}`, ours: ["recv", ...args].join(" "), seen: seen ?? "keyframes byte for byte, pings",
    open: () => openPage("phone", flags),
    peer: ["recv", "--out", out, ...args],
    async body(page, recv) {
      await page.join();
      await page.call("bePhone", { iceServers: page.iceServers, ...PHONE, announce: true, ...offer });
      const lines = await stored(recv, out, 3, { announced });
      if (!offer.camera) await coloured(page, out, lines.at(-1));
      await more(page, recv, out);
      await pings(page, recv);
      await stops(recv);
    },
  };
}

/** A phone whose offer is rejected with an error message. */
function refusedPhone({ name, does, offer, words }) {
  return {
    name, does: `phone: ${does}`, ours: "recv", seen: "exit code 1, the error message",
    open: () => openPage("phone"),
    peer: ["recv", "--out", folder(name)],
    async body(page, recv) {
      await page.join();
      await page.call("bePhone", { iceServers: page.iceServers, ...PHONE, ...offer });
      return refused(recv, words);
    },
  };
}

/** The profile in the description differs from Chromium's. */
const says = (profile, from = "42e01f") => ({
  fmtp: `packetization-mode=1;profile-level-id=${from}`,
  sent: [[`profile-level-id=${from}`, `profile-level-id=${profile}`]],
  received: [[`profile-level-id=${profile}`, `profile-level-id=${from}`]],
});

const answers = (profile, mode = 1) => async (page) => {
  const lines = await page.call("described", "video", "a=fmtp:");
  check(`the answer accepts ${profile}, packetization mode ${mode}`,
    lines.some((line) => line.includes(`profile-level-id=${profile}`) && line.includes(`packetization-mode=${mode}`)), lines.join(" | "));
};

const profiles = ["42e01f", "42001f", "4d001f"].flatMap((profile) => [1, 0].map((mode) => ({
  name: `phone_${profile}_mode${mode}`,
  does: `H.264 ${profile} alone, packetization mode ${mode}`,
  offer: { fmtp: `packetization-mode=${mode};profile-level-id=${profile}` },
  more: answers(profile, mode),
})));

const RTX = {
  name: "phone_rtx", does: "H.264 with RTX, red and ulpfec",
  offer: { fmtp: "packetization-mode=1;profile-level-id=42e01f", repair: true },
  seen: "keyframes byte for byte; the answer accepts H.264 and its RTX",
  more: async (page) => {
    const maps = await page.call("described", "video", "a=rtpmap:");
    check("the answer has H.264 and its RTX", maps.length === 2 && /H264/.test(maps[0]) && /rtx/.test(maps[1]), maps.join(" | "));
  },
};

/** Checks which m-lines the answer accepts. */
const lines = async (page) => {
  const lines = await page.call("answered");
  check("the video is accepted, audio is rejected",
    lines.some((line) => /^m=video [1-9]/.test(line)) && lines.some((line) => line === "m=audio 0"), lines.join(", "));
};

async function restart(page, recv) {
  const before = await page.call("ice");
  await page.call("restartIce");
  await until("new credentials", async () => (await page.call("ice")).remote !== before.remote);
  const count = recv.events("keyframe").length;
  await askUntil("2 more keyframes", recv, () => recv.events("keyframe").length >= count + 2);
  const after = await page.call("ice");
  check("the connection continues with new credentials",
    after.local !== before.local && after.connectionState === "connected", JSON.stringify({ before, after }));
  check("recv has kept it", !/starts a new connection/.test(recv.stderr));
}

const FPS = 60;
const CAMERA = [...LOCAL, `--use-fake-device-for-media-stream=fps=${FPS}`, "--use-fake-ui-for-media-stream"];
const FAST_PICTURES = 300;

/** A camera stream: pictures other than keyframes are decoded but not stored, and memory is stable. */
async function fast(page, recv, out) {
  const encoded = async () => (await page.call("stats", "outbound-rtp", ["framesEncoded", "keyFramesEncoded"]));
  const early = (await encoded()).framesEncoded;
  await until("a hundred pictures", async () => (await encoded()).framesEncoded > early + 100);
  const before = await memory(recv);
  const count = recv.events("keyframe").length;
  await askUntil("many more pictures, including keyframes", recv, () => recv.events("keyframe").length >= count + 3);
  const stats = await until(`${FAST_PICTURES} pictures`, async () => {
    const stats = await encoded();
    return stats.framesEncoded >= early + FAST_PICTURES && stats;
  });
  const grown = (await memory(recv)) - before;
  check("memory is stable", grown < 16e6, `${(grown / 1e6).toFixed(1)} MB more after ${JSON.stringify(stats)}`);
  // Chromium may have keys before orion-peer has: then a part of the first picture is permanently lost.
  const broken = recv.stderr.match(/broken picture/g)?.length ?? 0;
  check("only the first picture may be broken", broken <= 1, `${broken}`);
  const files = (await readFile(`${out}/frames.jsonl`, "utf8")).trim().split("\n").length;
  check("most pictures were not keyframes", stats.framesEncoded > 20 * files, `${files} stored`);
  await stored(recv, out, files);
}

/** Lost packets are retransmitted, and a later keyframe is complete. */
async function repaired(page, recv) {
  const names = ["nackCount", "retransmittedPacketsSent"];
  const stats = await until("retransmitted packets", async () => {
    const stats = await page.call("stats", "outbound-rtp", names);
    return stats.retransmittedPacketsSent > 0 && stats;
  });
  const count = recv.events("keyframe").length;
  await askUntil("one more keyframe", recv, () => recv.events("keyframe").length > count);
  check("Chromium received NACKs", stats.nackCount > 0, JSON.stringify(stats));
}

/** Chromium hides its addresses behind mDNS names by default: orion-peer must resolve them, because the page ignores its
 * candidates. */
const hidden = async (page) => {
  const names = await page.get("candidates");
  check("its candidates were only .local names", names.length > 0 && names.every((one) => one.includes(".local")), `${names.length}`);
};

export const phoneRows = [
  ...profiles.map(phone),
  phone({ name: "phone_42e034", does: "H.264 42e034 (level 5.2) alone in its description", offer: says("42e034"), more: answers("42e034") }),
  phone({ name: "phone_640c1f", does: "H.264 640c1f (High) alone in its description", offer: says("640c1f"), more: answers("640c1f") }),
  refusedPhone({ name: "phone_vp8", does: "VP8 alone", offer: { codec: "video/VP8" }, words: /no H\.264 video .*VP8/ }),
  phone(RTX),
  phone({
    name: "phone_loss", does: "a camera, RTX offered, 5 % of the packets lost in each direction", args: ["--loss", "5%"], announced: false,
    offer: { ...RTX.offer, camera: true, fps: 30 }, flags: CAMERA, more: repaired,
    seen: "Chromium retransmits over RTX; keyframes complete",
  }),
  phone({ name: "phone_half_trickle", does: "half-trickle: one offer with all candidates", offer: { halfTrickle: true } }),
  phone({ name: "phone_max_bundle", does: "BUNDLE policy max-bundle", offer: { bundle: "max-bundle" } }),
  phone({ name: "phone_max_compat", does: "BUNDLE policy max-compat", offer: { bundle: "max-compat" } }),
  refusedPhone({ name: "phone_no_bundle", does: "no BUNDLE group in its offer", words: /not in a BUNDLE group/,
    offer: { sent: [["^a=group:BUNDLE.*\r\n", ""]] } }),
  phone({ name: "phone_extra", does: "audio before and a second video after the first", offer: { extra: true }, more: lines,
    seen: "the answer rejects the audio; keyframes byte for byte, pings" }),
  phone({
    name: "phone_camera", does: `a camera at ${FPS} pictures per second`,
    offer: { camera: true, fps: FPS }, more: fast,
    flags: CAMERA,
    seen: `the keyframes of over ${FAST_PICTURES} pictures are stored, each complete; memory is stable`,
  }),
  phone({ name: "phone_restart", does: "restarts ICE", more: restart, seen: "keyframes continue over the same connection" }),
  needsAddress(phone({ name: "phone_mdns", does: "only `.local` candidates (mDNS)", offer: { iceServers: [], keep: "local", deaf: true }, flags: [], more: hidden })),
];
