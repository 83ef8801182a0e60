// The rows of table.md: each stack as the Mac and as the phone, with and without loss, with an ICE restart, with a
// peer that is killed and one that returns.

import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";

import { pause, until } from "./process.js";

const FILE = path.join(import.meta.dirname, "table.md");

/** Minimum number of pictures of a row. */
const PICTURES = 10;

/** Minimum number of pictures after a disturbance. */
const AFTER = 4;

/** Maximum duration of repairs, ms. */
const SETTLE = 3000;

/** Time limit after a kill, a return or a restart, ms. */
const BACK_WITHIN = 20_000;

/** orion-peer is stopped this long, and restarts ICE when it continues, ms. */
const STOPPED = 6000;

/** Minimum share when the path changes: some stacks lose a picture in flight then. */
const DURING_CHANGE = 0.75;

/** Minimum share of pictures that arrive while 5 % of the packets are lost in each direction. */
const REPAIRED = 0.9;

/** Time limit for expected events; less if they are known to be missing. */
const within = (call) => (call.stack.limits[call.name] ? BACK_WITHIN / 4 : BACK_WITHIN);

const keyframes = (child) => child.output.filter(({ kind }) => kind === "keyframe");
const last = (list) => list[list.length - 1];

/** The result of `count` when everything, but at least `least`, has arrived, or when repairs are over. */
async function settled(count, least = 0) {
  const end = Date.now() + SETTLE;
  for (;;) {
    const found = count();
    if (found.received >= Math.max(found.sent, least) || Date.now() > end) return found;
    await pause(100);
  }
}

/** The app is the Mac: `send` names each picture by its digest, and so does the app. */
const MAC = {
  role: "mac", command: "send",
  received: (call) => call.apps.flatMap((app) => app.events("keyframe")),
  sent: (call) => keyframes(call.peer).map(({ at, sha256 }) => ({ t: at, sha256 })),
  answered: (call) => last(call.apps).events("sent").filter(({ what }) => what === "answer"),
  offered: (call) => call.apps.flatMap((app) => app.signals("offer")),
  /** Pictures sent from `from` on, and how many of them arrived completely; waits for `least` of them. */
  async count(call, from, least) {
    const until = (end) => () => {
      const sent = MAC.sent(call).filter(({ t }) => t >= from && t <= end);
      const whole = new Set(MAC.received(call).map(({ sha256 }) => sha256));
      return { sent: sent.length, received: sent.filter(({ sha256 }) => whole.has(sha256)).length };
    };
    await settled(until(Infinity), least);
    return settled(until(Date.now()));
  },
};

/** The app is the phone: it sends one picture repeatedly, and stops so that both sides can be counted. */
const PHONE = {
  role: "phone", command: "recv",
  received: (call) => keyframes(call.peer).filter(({ sha256 }) => sha256 === call.digest).map(({ at }) => ({ t: at })),
  sent: (call) => last(call.apps).events("picture"),
  answered: (call) => last(call.apps).signals("answer"),
  offered: (call) => call.apps.flatMap((app) => app.events("sent")).filter(({ what }) => what === "offer"),
  async count(call, from, least) {
    const count = (list) => list.filter(({ t }) => t >= from).length;
    const found = () => ({ sent: count(PHONE.sent(call)), received: count(PHONE.received(call)) });
    await settled(found, least);
    last(call.apps).type("stop");
    // Pictures sent before that are reported by then.
    await pause(200);
    return settled(found);
  },
};

/** Waits for pictures that arrived after `from`, and returns the first one. Less time if they are known to be missing. */
const pictures = (call, side, least, from = 0) => until(`${least} complete keyframes`, within(call) + least * 1000, () => {
  if (call.peer.ended) throw new Error(`${call.peer.name} ended with ${call.peer.ended.code}: ${last(call.peer.stderr.split("\n"))}`);
  const found = side.received(call).filter(({ t }) => t >= from);
  return found.length >= least && found[0];
});

async function start(call, side, { unit, folder }, ...flags) {
  call.digest = createHash("sha256").update(readFileSync(unit)).digest("hex");
  const relay = flags.includes("relay");
  const network = flags.filter((flag) => flag !== "relay");
  call.begin = () => {
    const out = side === PHONE ? ["--format", "h264", "--out", `${folder(call)}-${call.children.length}`] : [];
    return call.orionLarge(side.command, ...out, ...network);
  };
  call.newApp = () => call.app({ role: side.role, unit, renew: true, relay, talk: true });
  await call.newApp();
  call.begin();
}

/** The figures and faults of a row; `from`: the time from which pictures count. */
async function row(call, side, { from = 0, share = 1, least = PICTURES, texts = 1 } = {}) {
  const faults = [];
  const app = last(call.apps);
  const after = (event, what) => app.events(event).filter((one) => one.t >= from && (!what || one.what === what)).length;
  // After an outage, SCTP retransmits only when its timer expires, which has been doubled repeatedly.
  const mute = call.stack.mute?.[side.role];
  const heard = mute ? () => /data channel has not opened/.test(call.peer.stderr)
    : () => after("heard", "ack") >= texts && after("heard", "ping") > 0;
  await until(mute ? "report that there is no data channel" : "data messages", within(call), heard).catch(({ message }) => faults.push(message));
  const { sent, received } = await side.count(call, from, least);
  if (received < least) faults.push(`${received} complete keyframes instead of ${least}`);
  if (received < Math.floor(sent * share) || received > sent) faults.push(`${received} of ${sent} keyframes`);
  const [said, acknowledged, pings] = [after("said"), after("heard", "ack"), after("heard", "ping")];
  const connected = last(call.peer.output.filter(({ kind }) => kind === "connected"))?.connectionType ?? "none";
  const first = side.received(call).find(({ t }) => t >= Math.max(from, side.answered(call)[0]?.t));
  const answer = last(side.answered(call).filter(({ t }) => t <= first?.t));
  const result = mute ? { result: `works, without a data channel, which orion-peer reports: ${mute}` } : {};
  return { sent, received, said, acknowledged, pings, connected, first: (first?.t - answer?.t) / 1000, faults, ...result };
}

const steady = (side) => async (call, given) => {
  await start(call, side, given);
  await pictures(call, side, PICTURES);
  return row(call, side, { texts: 3 });
};

const loss = (side) => async (call, given) => {
  await start(call, side, given, "--loss", "5%");
  await pictures(call, side, PICTURES);
  return row(call, side, { share: REPAIRED });
};

const relayed = (side) => async (call, given) => {
  await start(call, side, given, "relay");
  await pictures(call, side, AFTER);
  const found = await row(call, side, { least: AFTER });
  if (!found.connected.startsWith("relay")) found.faults.push(`connected by ${found.connected}`);
  return found;
};

/** Whether all offers belong to the same connection. */
function sameConnection(call, faults) {
  const offers = call.apps.flatMap((app) => [...app.signals("offer"), ...app.signals("answer")]);
  if (new Set(offers.map(({ ufrag }) => ufrag)).size < 2) faults.push("ICE was not restarted");
  if (new Set(offers.map(({ fingerprint }) => fingerprint)).size > 1) faults.push("the connection was replaced");
}

/** orion-peer was stopped and restarts ICE. */
async function weRestart(call, given) {
  await start(call, MAC, given);
  await pictures(call, MAC, AFTER);
  call.peer.process.kill("SIGSTOP");
  await pause(STOPPED);
  call.peer.process.kill("SIGCONT");
  const offer = await until("restart of ICE", BACK_WITHIN, () => MAC.offered(call)[1]);
  await pictures(call, MAC, AFTER, offer.t);
  const found = await row(call, MAC, { from: offer.t, least: AFTER, share: DURING_CHANGE });
  sameConnection(call, found.faults);
  return found;
}

/** The phone restarts ICE. */
async function phoneRestarts(call, given) {
  await start(call, PHONE, given);
  await pictures(call, PHONE, AFTER);
  const [app] = call.apps;
  const before = app.signals("answer").length;
  app.type("restart");
  await until("answer to the restart", BACK_WITHIN, () => {
    const error = app.events("error")[0];
    if (error) throw new Error(error.message);
    return app.signals("answer")[before];
  });
  await pictures(call, PHONE, AFTER, Date.now());
  const found = await row(call, PHONE, { least: 2 * AFTER, share: DURING_CHANGE });
  sameConnection(call, found.faults);
  return found;
}

/** The app is killed, and a new process joins. */
const killed = (side) => async (call, given) => {
  await start(call, side, given);
  await pictures(call, side, AFTER);
  last(call.apps).kill();
  await pause(1500);
  const from = Date.now();
  await call.newApp();
  await pictures(call, side, AFTER, from);
  // Pictures sent to the old one are lost.
  return row(call, side, { from: side === MAC ? MAC.answered(call)[0].t : from, least: AFTER });
};

/** orion-peer is killed, and a new process joins. */
const returned = (side) => async (call, given) => {
  await start(call, side, given);
  await pictures(call, side, AFTER);
  call.peer.kill();
  await pause(1500);
  const from = Date.now();
  call.begin();
  await pictures(call, side, AFTER, from);
  const up = last(last(call.apps).events("connection").filter(({ state }) => state === "connected"))?.t ?? from;
  return row(call, side, { from: side === MAC ? from : up, least: AFTER });
};

/** The stack has no H.264: orion-peer ends with an error. */
const refused = (side) => async (call, given) => {
  await start(call, side, given);
  await until("end of orion-peer", BACK_WITHIN, () => call.peer.ended);
  const error = last(call.peer.output)?.error;
  const faults = call.peer.ended.code === 1 && error?.code === "no-h264" ? [] : [`ended with ${call.peer.ended.code}: ${error?.code}`];
  return { faults, result: `refused: “${error?.stage}: ${error?.message}”` };
};

/** The available figures, even if something is missing. */
const guarded = (side, body) => async (call, given) => {
  try {
    return await body(call, given);
  } catch (error) {
    const figures = call.peer ? await row(call, side, { texts: 0 }) : {};
    return { ...figures, faults: [error.message] };
  }
};

const lane = (side, ...cases) => cases.map(([name, does, body, needs]) => ({
  name: `${side.role}-${name.replace(" ", "-")}`, as: side.role, row: name, does: `as the ${side.role}: ${does}`,
  run: guarded(side, body), needs, table: true,
}));

/** By lane, as in cases.js. */
export const LANES = [
  lane(MAC,
    ["steady", "no events", steady(MAC)],
    ["loss", "5 % of the packets are lost in each direction", loss(MAC)],
    ["restart", "orion-peer restarts ICE", weRestart],
    ["kill", "it is killed, and a new one joins", killed(MAC)],
    ["return", "orion-peer is killed and returns", returned(MAC)],
    ["relay", "it has only relayed candidates", relayed(MAC), "relays"],
    ["no H.264", "it has no H.264", refused(MAC), "refuses"]),
  lane(PHONE,
    ["steady", "no events", steady(PHONE)],
    ["loss", "5 % of the packets are lost in each direction", loss(PHONE)],
    ["restart", "it restarts ICE", phoneRestarts],
    ["kill", "it is killed, and a new one joins", killed(PHONE)],
    ["return", "orion-peer is killed and returns", returned(PHONE)],
    ["relay", "it has only relayed candidates", relayed(PHONE), "relays"],
    ["no H.264", "it has no H.264", refused(PHONE), "refuses"]),
];

/** Turns known faults into the result of the row. */
export function judge(stack, { name }, found) {
  const limit = stack.limits[name];
  if (limit?.atTimes) return { ...found, faults: [], result: `fails at times: ${limit.atTimes}` };
  if (!limit) return { result: "works", ...found };
  if (found.faults.length === 0) return { ...found, faults: [`works, although a limitation is listed: ${limit}`] };
  return { ...found, faults: [], result: `fails: ${limit}` };
}

const HEADS = ["stack", "as", "case", "complete keyframes of sent", "pings received, texts acknowledged of sent", "first picture, s", "connected", "result"];
const line = (cells) => `| ${cells.map((cell) => String(cell).replaceAll("|", "\\|")).join(" | ")} |`;
const shown = (value, digits = 0) => (Number.isFinite(value) ? value.toFixed(digits) : "–");

const rowLine = ({ stack, as, row: name, sent, received, pings, said, acknowledged, first, connected, result }) => line([
  stack, as, name, Number.isFinite(sent) ? `${received} of ${sent}` : "–",
  Number.isFinite(said) ? `${pings}, ${acknowledged} of ${said}` : "–", shown(first, 2), connected ?? "–", result,
]);

/** The parts of a line that are the same in every run. */
const essence = (text) => {
  const cells = text.split(/(?<!\\)\|/).map((cell) => cell.trim());
  return [cells[1], cells[2], cells[3], cells[8]].join(" | ");
};

/** Writes table.md. */
export function write(rows, stacks) {
  const text = [
    "## Other stacks", "",
    "Each stack was the Mac of `send` and the phone of `recv`, with keyframes of about 100 KB twice a second, over loopback.",
    "“Complete” means that the SHA-256 of the access unit is that of the sent one. The time of the first picture is counted",
    "from the answer. In “restart”, `send` was stopped for 6 s, or the phone restarted ICE; in “kill” and “return”, only",
    "pictures after the event count. `tests/foreign/run.sh` runs each row, and fails if a result differs from this table.", "",
    "<!-- written by `tests/foreign/run.sh --table` -->", "",
    `${stacks.map(({ name, version }) => `${name}: ${version}`).join(" · ")}`, "",
    line(HEADS), `|${"---|".repeat(HEADS.length)}`, ...rows.map(rowLine), "",
  ];
  writeFileSync(FILE, text.join("\n"));
}

/** The rows as written in table.md. */
export const lines = (rows) => rows.map(rowLine);

/** Rows that table.md does not have. */
export function missing(rows) {
  const known = new Set(readFileSync(FILE, "utf8").split("\n").filter((text) => text.startsWith("| ")).map(essence));
  return lines(rows).filter((text) => !known.has(essence(text)));
}
