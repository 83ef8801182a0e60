// How long `send` takes for each keyframe of about 100 KB to each stack, one every 3.5 s: ms from its first packet to
// its last, over loopback and over links of 20 ms in each direction.
//
//   tests/foreign/run.sh --pace
//   ONLY=aiortc,chromium LINKS=loopback,5Mbit BASELINE=FILE tests/foreign/run.sh --pace    compared with another
//   orion-peer

import { Call } from "./call.js";
import { until } from "./process.js";

const { BASELINE, ORION_PEER } = process.env;
const BINARIES = [["now", ORION_PEER], ...(BASELINE ? [["before", BASELINE]] : [])];

/** Pictures like those of a phone. */
const PICTURES = ["--source", "pattern:1280x720", "--interval", "3.5s", "--max-bytes", "100KB"];

/** Keyframes of a call. */
const COUNT = 6;

/** Rates of the sender's link; `loopback` has none. */
const LINKS = (process.env.LINKS ?? "loopback,5Mbit,1Mbit").split(",");

/** A call's keyframes. */
async function keyframes(stack, link, [name, binary]) {
  const call = new Call(stack, `pace-${link}-${name}`, binary);
  const shaped = link === "loopback" ? [] : ["--rate", link, "--delay", "20ms"];
  try {
    await call.serve();
    await call.app();
    call.orionWith(PICTURES, "send", "-vv", "--count", String(COUNT), ...shaped);
    await until("end of the call", 60_000, () => call.peer.ended);
    return call.peer.output.filter(({ kind }) => kind === "keyframe").map(({ stagesMs }) => Math.round(stagesMs.send));
  } finally {
    await call.end();
  }
}

/** Prints a row for each stack, link and program. */
export async function pace(stacks) {
  console.log("| stack | link | orion-peer | ms of keyframes 1 to 6 |\n|---|---|---|---|");
  for (const stack of stacks) {
    for (const link of LINKS) {
      for (const binary of BINARIES) {
        const found = await keyframes(stack, link, binary).then((ms) => ms.join(" "), (error) => error.message);
        console.log(`| ${stack.name} | ${link} | ${binary[0]} | ${found} |`);
      }
    }
  }
}
