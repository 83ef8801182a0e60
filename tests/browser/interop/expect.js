// What the rows look at: keyframes stored by recv, pictures shown by Chromium, refusals in words.

import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { networkInterfaces } from "node:os";
import path from "node:path";

import { until } from "../process.js";
import { COLOURS, COLOUR_SLACK, PHONE_SIZE, askUntil, check, pingBoth, scratch } from "../rig.js";

/** A new directory for one row. */
export const folder = (name) => path.join(scratch, name);

/** NAL unit types in an Annex B stream (ITU-T H.264 table 7-1). */
function nalTypes(data) {
  const types = [];
  for (let at = data.indexOf("\0\0\x01"); at >= 0; at = data.indexOf("\0\0\x01", at + 3)) types.push(data[at + 3] & 31);
  return types;
}

const IDR = 5;
const OTHER_SLICES = [1, 2, 3, 4];

/** Has recv store `count` keyframes; each file is what its line says, holds IDR slices alone and could be decoded.
 * With `told` the sender has told the hash of each, which recv compares. */
export async function stored(recv, out, count = 3, { told = true, size = PHONE_SIZE } = {}) {
  await askUntil(`${count} keyframes`, recv, () => recv.events("keyframe").length >= count);
  const lines = (await readFile(path.join(out, "frames.jsonl"), "utf8")).trim().split("\n").map(JSON.parse);
  const wrong = [];
  for (const line of lines) {
    const data = await readFile(path.join(out, line.file));
    const types = nalTypes(data);
    const sha256 = createHash("sha256").update(data).digest("hex");
    if (data.length !== line.bytes || sha256 !== line.sha256) wrong.push(`${line.file}: not what its line says`);
    if (!types.includes(IDR) || types.some((type) => OTHER_SLICES.includes(type))) wrong.push(`${line.file}: ${types}`);
    if (line.width !== size.width || line.height !== size.height) wrong.push(`${line.width}x${line.height}`);
    // The first may overtake the channel over which it is told of.
    if (line.verified === false || (told && line.verified !== true && line !== lines[0])) wrong.push(`${line.file}: not verified`);
  }
  if (told && !lines.some((line) => line.verified)) wrong.push("none verified");
  const undecoded = recv.events("keyframe").filter((one) => one.undecoded != null);
  check("each stored picture is a whole keyframe of the right size", wrong.length === 0, wrong.join("; ") || `${lines.length}`);
  check("each was decoded", undecoded.length === 0, undecoded.map((one) => one.undecoded).join("; "));
  return lines;
}

/** The decoded picture has the colours of the page's canvas. */
export async function coloured(page, out, line) {
  const jpg = await readFile(path.join(out, line.file.replace(".h264", ".jpg")));
  const { means } = await page.call("quarters", `data:image/jpeg;base64,${jpg.toString("base64")}`);
  const off = Math.max(...means.flatMap((mean, quarter) => mean.map((value, c) => Math.abs(value - COLOURS[quarter][c]))));
  check("the picture has the canvas's colours", off <= COLOUR_SLACK, `off by ${off} of 255 at most`);
}

/** Chromium decodes `count` pictures, each as a keyframe. */
export async function shown(page, count = 3) {
  const names = ["framesDecoded", "keyFramesDecoded", "framesDropped"];
  const stats = await until(`${count} decoded keyframes`, async () => {
    const stats = await page.call("stats", "inbound-rtp", names);
    return stats.framesDecoded >= count && stats;
  });
  check("Chromium decodes every picture as a keyframe", stats.framesDecoded === stats.keyFramesDecoded, JSON.stringify(stats));
}

/** Pings both ways over the channels of the contract. */
export async function pings(page, peer) {
  await pingBoth(page);
  const ping = await page.control("their ping", (one) => one.t === "ping");
  check(`${peer.name} pings`, typeof ping.ts === "number", `id ${ping.id}`);
}

/** The peer ends with 1 and says why; gives its words for the table. */
export async function refused(peer, words) {
  const code = await peer.ended();
  const said = /^error: (.*)$/m.exec(peer.stderr)?.[1] ?? "";
  check(`${peer.name} ends with 1 and says why`, code === 1 && words.test(said), `code ${code}: ${said}`);
  return `refused: “${said}”`;
}

/** The peer ends with 0 when it is told to. */
export async function stops(peer) {
  check(`${peer.name} ends with 0`, (await peer.stop()) === 0);
}

const addresses = Object.values(networkInterfaces()).flat();

/** Names of mDNS stand for addresses that are not loopback. */
export const needsAddress = (row) => ({
  ...row, lacks: !addresses.some((one) => !one.internal && one.family === "IPv4") && "this machine has loopback addresses alone",
});

/** Loopback will do. */
export const needsIpv6 = (row) => ({
  ...row, lacks: !addresses.some((one) => one.address === "::1") && "this machine has no IPv6",
});
