// orion-peer against apps on other stacks, over loopback: calls that should survive, or end.
//
//   node main.js
//   ONLY=aiortc,werift/killed-8s node main.js   these stacks and cases alone

import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";

import { Call } from "./call.js";
import { LANES as SURVIVING } from "./cases.js";
import { LANES as HOSTILE } from "./hostile.js";
import { killAll } from "./process.js";

const here = import.meta.dirname;
const app = (name) => path.join(here, "apps", name);
const npm = (name) => JSON.parse(readFileSync(path.join(here, "node_modules", name, "package.json"))).version;
const text = (command, ...args) => execFileSync(command, args, { encoding: "utf8" }).trim();
const { PYTHON, CHROMIUM, ORION_PEER } = process.env;

const LANES = [...SURVIVING, ...HOSTILE];

const STACKS = [
  {
    name: "aiortc", decodes: true, hostile: true, command: [PYTHON, app("aiortc_app.py")],
    version: text(PYTHON, "-c", "import importlib.metadata as m; print(m.version('aiortc'))"),
  },
  { name: "werift", command: [process.execPath, app("werift.js")], version: npm("werift") },
  { name: "libdatachannel", command: [process.execPath, app("datachannel.js")], version: `node-datachannel ${npm("node-datachannel")}` },
  {
    name: "chromium", decodes: true, command: [process.execPath, app("chromium.js")],
    version: text(CHROMIUM, "--version"),
  },
];

const only = process.env.ONLY?.split(",");
const able = (stack, { hostile }) => !hostile || stack.hostile;
const chosen = (stack, name) => !only || only.some((one) => [stack.name, `${stack.name}/${name}`].includes(one));

const scratch = mkdtempSync(path.join(tmpdir(), "orion-foreign-"));
// A browser that is killed leaves its profile behind.
process.env.TMPDIR = scratch;

/** A keyframe for apps that are the phone and encode nothing themselves. */
function accessUnit() {
  const out = path.join(scratch, "unit");
  execFileSync(ORION_PEER, [
    "demo", "--source", "pattern:320x240", "--interval", "0.2s", "--count", "1", "--format", "h264", "--max-bytes", "20KB", "--out", out,
  ], { stdio: ["ignore", "ignore", "pipe"] });
  return path.join(out, readdirSync(out).find((name) => name.endsWith(".h264")));
}

/** Runs one case; its row. */
async function run(stack, { name, does, run: body }, given) {
  const call = new Call(stack, name);
  let row;
  try {
    await call.serve();
    row = await body(call, given);
  } catch (error) {
    row = { faults: [error.message] };
  }
  await call.end();
  const ok = row.faults.length === 0;
  console.log(`${ok ? "pass" : "FAIL"}  ${stack.name}: ${does}${ok ? "" : `: ${row.faults.join("; ")}`}`);
  if (!ok) {
    const telling = call.text.filter((line) => !/"event":"(keyframe|decoded|announced)"|"kind":"|sent keyframe/.test(line));
    console.log(`${telling.slice(-60).map((line) => `      ${line}`).join("")}      all of it: ${call.log}`);
  }
  return { stack: stack.name, name, ok, ...row };
}

const figure = (value) => (Number.isFinite(value) ? String(Math.round(value * 10) / 10) : "–");

function table(rows) {
  const heads = ["stack", "case", "sent", "received", "longest gap, s", "offers", "ended after, s", "result"];
  const cells = rows.map((row) => [
    row.stack, row.name, figure(row.sent), figure(row.received), figure(row.gap), figure(row.offers), figure(row.after),
    row.ok ? "pass" : `FAIL: ${row.faults.join("; ")}`,
  ]);
  const widths = heads.map((head, at) => Math.max(head.length, ...(at < heads.length - 1 ? cells.map((row) => row[at].length) : [0])));
  for (const row of [heads, ...cells]) console.log(row.map((cell, at) => cell.padEnd(widths[at])).join("  ").trimEnd());
}

process.on("exit", () => {
  killAll();
  rmSync(scratch, { recursive: true, force: true, maxRetries: 5 });
});
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(1));

const unit = accessUnit();
const given = { unit, folder: (call) => path.join(scratch, `${call.stack.name}-${call.name}`) };
const rows = [];
await Promise.all(STACKS.flatMap((stack) => LANES.map(async (lane) => {
  for (const one of lane) if (able(stack, one) && chosen(stack, one.name)) rows.push(await run(stack, one, given));
})));

const order = LANES.flat().map(({ name }) => name);
const stacks = STACKS.map(({ name }) => name);
rows.sort((a, b) => stacks.indexOf(a.stack) - stacks.indexOf(b.stack) || order.indexOf(a.name) - order.indexOf(b.name));
console.log(`\n${STACKS.map(({ name, version }) => `${name} (${version})`).join(", ")}`);
table(rows);
const failed = rows.filter(({ ok }) => !ok).length;
console.log(`${rows.length - failed} passed, ${failed} failed`);
process.exitCode = failed === 0 && rows.length > 0 ? 0 : 1;
