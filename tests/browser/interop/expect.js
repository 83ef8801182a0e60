// Checks shared by the rows: keyframes stored by recv, pictures shown by Chromium, error messages of refusals.

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

/** Has recv store `count` keyframes; each file matches its line, contains only IDR slices and could be decoded. With
 * `announced` the sender has announced the hash of each, which recv compares. */
export async function stored(recv, out, count = 3, { announced = true, size = PHONE_SIZE } = {}) {
  await askUntil(`${count} keyframes`, recv, () => recv.events("keyframe").length >= count);
  const lines = (await readFile(path.join(out, "frames.jsonl"), "utf8")).trim().split("\n").map(JSON.parse);
  const wrong = [];
  for (const line of lines) {
    const data = await readFile(path.join(out, line.file));
    const types = nalTypes(data);
    const sha256 = createHash("sha256").update(data).digest("hex");
    if (data.length !== line.bytes || sha256 !== line.sha256) wrong.push(`${line.file}: does not match its line`);
    if (!types.includes(IDR) || types.some((type) => OTHER_SLICES.includes(type))) wrong.push(`${line.file}: ${types}`);
    if (line.width !== size.width || line.height !== size.height) wrong.push(`${line.width}x${line.height}`);
    // The first may overtake the channel of its announcement.
    if (line.verified === false || (announced && line.verified !== true && line !== lines[0])) wrong.push(`${line.file}: not verified`);
  }
  if (announced && !lines.some((line) => line.verified)) wrong.push("none verified");
  const undecoded = recv.events("keyframe").filter((one) => one.undecoded != null);
  check("each stored picture is a complete keyframe of the right size", wrong.length === 0, wrong.join("; ") || `${lines.length}`);
  check("each was decoded", undecoded.length === 0, undecoded.map((one) => one.undecoded).join("; "));
  return lines;
}

/** Checks that the decoded picture has the colors of the page's canvas. */
export async function coloured(page, out, line) {
  const jpg = await readFile(path.join(out, line.file.replace(".h264", ".jpg")));
  const { means } = await page.call("quarters", `data:image/jpeg;base64,${jpg.toString("base64")}`);
  const off = Math.max(...means.flatMap((mean, quarter) => mean.map((value, c) => Math.abs(value - COLOURS[quarter][c]))));
  check("the picture has the canvas's colors", off <= COLOUR_SLACK, `off by at most ${off} of 255`);
}

/** Checks that Chromium decodes `count` pictures, each as a keyframe. */
export async function shown(page, count = 3) {
  const names = ["framesDecoded", "keyFramesDecoded", "framesDropped"];
  const stats = await until(`${count} decoded keyframes`, async () => {
    const stats = await page.call("stats", "inbound-rtp", names);
    return stats.framesDecoded >= count && stats;
  });
  check("Chromium decodes every picture as a keyframe", stats.framesDecoded === stats.keyFramesDecoded, JSON.stringify(stats));
}

/** Pings in both directions over the channels of the contract. */
export async function pings(page, peer) {
  await pingBoth(page);
  const ping = await page.control("the peer's ping", (one) => one.t === "ping");
  check(`${peer.name} pings`, typeof ping.ts === "number", `id ${ping.id}`);
}

/** The peer ends with 1 and an error message; returns it for the table. */
export async function refused(peer, words) {
  const code = await peer.ended();
  const message = /^error: (.*)$/m.exec(peer.stderr)?.[1] ?? "";
  check(`${peer.name} ends with 1 and an error message`, code === 1 && words.test(message), `code ${code}: ${message}`);
  return `refused: “${message}”`;
}

/** The peer ends with 0 on Ctrl-C. */
export async function stops(peer) {
  check(`${peer.name} ends with 0`, (await peer.stop()) === 0);
}

const addresses = Object.values(networkInterfaces()).flat();

/** A row that needs an address other than loopback, because only these get mDNS names. */
export const needsAddress = (row) => ({
  ...row, lacks: !addresses.some((one) => !one.internal && one.family === "IPv4") && "this machine has only loopback addresses",
});

/** A row that needs IPv6; loopback is sufficient. */
export const needsIpv6 = (row) => ({
  ...row, lacks: !addresses.some((one) => one.address === "::1") && "this machine has no IPv6",
});
