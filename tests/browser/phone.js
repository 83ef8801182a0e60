// Chromium as the phone, with `recv` over links of various rates: the effect of `--phone-bitrate`. See scripts/phone.sh.

import { mkdir, readdir } from "node:fs/promises";
import path from "node:path";
import { parseArgs } from "node:util";

import { call } from "./phone/call.js";
import { markdown, print } from "./phone/table.js";
import { SAMPLES, check, scratch, suite, startPeer } from "./rig.js";

const PHOTO = "picos-de-europa.jpg";

const { values: options } = parseArgs({
  options: {
    short: { type: "boolean", default: false },
    table: { type: "boolean", default: false },
    links: { type: "string" },
    settings: { type: "string", default: "off,auto" },
    units: { type: "string" },
    queue: { type: "string" },
    keyframes: { type: "string" },
  },
});

// Only the table goes to stdout.
if (options.table) console.log = console.error;

/** Rates in Mbit/s; `20-1` changes after the second keyframe. */
const LINKS = ["unlimited", "50", "20", "5", "2", "1", "20-1"];

/** The properties of a named link: the flags of `recv`, its final rate, and the command that changes it. */
function link(name) {
  const [rate, then] = name.split("-").map(Number);
  const queue = options.queue ? ["--queue", options.queue] : [];
  return {
    name,
    title: then ? `${rate}, then ${then} Mbit/s` : rate ? `${rate} Mbit/s` : name,
    rate: then ?? rate,
    args: ["--delay", "20ms", ...(rate ? ["--rate", `${rate}Mbit`, ...queue] : [])],
    change: then ? `/link rate=${then}Mbit` : null,
  };
}

/** `off`, `auto`, a rate, or hints to test: `start=5000+max=20000` is written into the answer that the page receives. */
function setting(name) {
  if (!name.includes("=")) return { name, args: ["--phone-bitrate", name], received: [] };
  const received = [];
  const format = [];
  for (const [key, value] of name.split("+").map((word) => word.split("="))) {
    if (key === "tias") received.push(["^(m=video.*\r\nc=.*\r\n)", `$1b=TIAS:${value}000\r\n`]);
    else format.push(`;x-google-${key}-bitrate=${value}`);
  }
  received.push(["^(a=fmtp:\\d+ .*profile-level-id=[0-9a-f]+)", `$1${format.join("")}`]);
  return { name, args: ["--phone-bitrate", "off"], received };
}

/** An access unit of 100 KB from our own encoder. */
async function accessUnit() {
  const folder = path.join(scratch, "unit");
  await mkdir(folder);
  const recv = startPeer(["recv", "--out", path.join(scratch, "first"), "--count", "1", "--format", "h264"]);
  const send = startPeer(["send", "--source", path.join(SAMPLES, PHOTO), "--count", "1", "--save", folder]);
  if ((await send.ended()) !== 0) throw new Error(send.stderr);
  await recv.stop();
  const file = (await readdir(folder)).find((name) => name.endsWith(".h264"));
  return { url: `/scratch/unit/${file}` };
}

await suite(async () => {
  const names = options.links?.split(",") ?? (options.short ? ["20", "1"] : LINKS);
  const count = Number(options.keyframes ?? (options.short ? 3 : 5));
  const unit = await accessUnit();
  const units = (options.units ?? "fixed,own").split(",");
  const results = [];
  for (const name of names) {
    for (const kind of units) {
      for (const one of options.settings.split(",")) {
        const result = await call({ link: link(name), setting: setting(one), photo: `/samples/${PHOTO}`,
          unit: kind === "fixed" ? unit : null, count: name.includes("-") ? Math.max(count, 6) : count });
        results.push(result);
        print(result);
        check(`${name}, ${kind}, ${one}: all keyframes were delivered`, result.keyframes.length >= result.count, `${result.keyframes.length}`);
      }
    }
  }
  if (options.table) process.stdout.write(`${markdown(results)}\n`);
});
