// The rows of table.md: each stack as the Mac and as the phone, with and without loss, with a restart of ICE, with a
// peer that is killed and one that returns.

import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";

import { pause, until } from "./process.js";

const FILE = path.join(import.meta.dirname, "table.md");

/** Pictures of a row, at least. */
const PICTURES = 10;

/** Pictures after something happened, at least. */
const AFTER = 4;

/** Repairs take this long at most, ms. */
const SETTLE = 3000;

/** Required after a kill, a return or a restart, ms. */
const BACK_WITHIN = 20_000;

/** Our side is stopped this long, and restarts ICE when it goes on, ms. */
const STOPPED = 6000;

/** Some stacks lose a picture that is under way when the path changes. */
const MEANWHILE = 0.75;

/** Of the pictures sent while 5 % of the packets get lost each way, this share arrives. */
const REPAIRED = 0.9;

/** Time for what is to come; less for what is known not to. */
const within = (call) => (call.stack.limits[call.name] ? BACK_WITHIN / 4 : BACK_WITHIN);

const keyframes = (child) => child.said.filter(({ kind }) => kind === "keyframe");
const last = (list) => list[list.length - 1];

/** What `count` gives once everything has come, `least` at least, or repairs are over. */
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
  /** Pictures sent from `from` on, and how many of them came whole: `least`, unless they fail to come. */
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

/** The app is the phone: it sends one picture again and again, and stops so that both ends can be counted. */
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
    // What was asked before it is reported by then.
    await pause(200);
    return settled(found);
  },
};

/** Waits for pictures that came after `from`; the first of them. Those that are known not to come get less time. */
const pictures = (call, side, least, from = 0) => until(`${least} whole keyframes`, within(call) + least * 1000, () => {
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

/** What a row shows, and what was wrong with it; `from`: the time from which pictures count. */
async function row(call, side, { from = 0, share = 1, least = PICTURES, texts = 1 } = {}) {
  const faults = [];
  const app = last(call.apps);
  const after = (event, what) => app.events(event).filter((one) => one.t >= from && (!what || one.what === what)).length;
  // After an outage SCTP sends again only when a timer is over that has doubled meanwhile.
  const mute = call.stack.mute?.[side.role];
  const heard = mute ? () => /data channel has not opened/.test(call.peer.stderr)
    : () => after("heard", "ack") >= texts && after("heard", "ping") > 0;
  await until(mute ? "report that there is no data channel" : "data messages", within(call), heard).catch(({ message }) => faults.push(message));
  const { sent, received } = await side.count(call, from, least);
  if (received < least) faults.push(`${received} whole keyframes instead of ${least}`);
  if (received < Math.floor(sent * share) || received > sent) faults.push(`${received} of ${sent} keyframes`);
  const [said, acknowledged, pings] = [after("said"), after("heard", "ack"), after("heard", "ping")];
  const connected = last(call.peer.said.filter(({ kind }) => kind === "connected"))?.connectionType ?? "none";
  const first = side.received(call).find(({ t }) => t >= Math.max(from, side.answered(call)[0]?.t));
  const answer = last(side.answered(call).filter(({ t }) => t <= first?.t));
  const result = mute ? { result: `works, without a data channel, which our side reports: ${mute}` } : {};
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

/** What offers said since the first one: whether they are of the same connection. */
function sameConnection(call, faults) {
  const offers = call.apps.flatMap((app) => [...app.signals("offer"), ...app.signals("answer")]);
  if (new Set(offers.map(({ ufrag }) => ufrag)).size < 2) faults.push("ICE was not restarted");
  if (new Set(offers.map(({ fingerprint }) => fingerprint)).size > 1) faults.push("the connection was replaced");
}

/** Our side was stopped and restarts ICE. */
async function weRestart(call, given) {
  await start(call, MAC, given);
  await pictures(call, MAC, AFTER);
  call.peer.process.kill("SIGSTOP");
  await pause(STOPPED);
  call.peer.process.kill("SIGCONT");
  const offer = await until("restart of ICE", BACK_WITHIN, () => MAC.offered(call)[1]);
  await pictures(call, MAC, AFTER, offer.t);
  const found = await row(call, MAC, { from: offer.t, least: AFTER, share: MEANWHILE });
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
  const found = await row(call, PHONE, { least: 2 * AFTER, share: MEANWHILE });
  sameConnection(call, found.faults);
  return found;
}

/** The app is killed, and a new process comes. */
const killed = (side) => async (call, given) => {
  await start(call, side, given);
  await pictures(call, side, AFTER);
  last(call.apps).kill();
  await pause(1500);
  const from = Date.now();
  await call.newApp();
  await pictures(call, side, AFTER, from);
  // What was sent to the old one is lost.
  return row(call, side, { from: side === MAC ? MAC.answered(call)[0].t : from, least: AFTER });
};

/** Our side is killed, and a new process comes. */
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

/** The stack has no H.264: our side ends, and says so. */
const refused = (side) => async (call, given) => {
  await start(call, side, given);
  await until("end of our side", BACK_WITHIN, () => call.peer.ended);
  const error = last(call.peer.said)?.error;
  const faults = call.peer.ended.code === 1 && error?.code === "no-h264" ? [] : [`ended with ${call.peer.ended.code}: ${error?.code}`];
  return { faults, result: `refused: “${error?.stage}: ${error?.message}”` };
};

/** The figures there are, also when something did not come. */
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
    ["steady", "nothing happens", steady(MAC)],
    ["loss", "5 % of the packets get lost each way", loss(MAC)],
    ["restart", "our side restarts ICE", weRestart],
    ["kill", "it is killed, and a new one comes", killed(MAC)],
    ["return", "our side is killed and returns", returned(MAC)],
    ["relay", "it has relayed candidates alone", relayed(MAC), "relays"],
    ["no H.264", "it has no H.264", refused(MAC), "refuses"]),
  lane(PHONE,
    ["steady", "nothing happens", steady(PHONE)],
    ["loss", "5 % of the packets get lost each way", loss(PHONE)],
    ["restart", "it restarts ICE", phoneRestarts],
    ["kill", "it is killed, and a new one comes", killed(PHONE)],
    ["return", "our side is killed and returns", returned(PHONE)],
    ["relay", "it has relayed candidates alone", relayed(PHONE), "relays"],
    ["no H.264", "it has no H.264", refused(PHONE), "refuses"]),
];

/** Turns faults that are known into the words of the row. */
export function judge(stack, { name }, found) {
  const limit = stack.limits[name];
  if (limit?.atTimes) return { ...found, faults: [], result: `fails at times: ${limit.atTimes}` };
  if (!limit) return { result: "works", ...found };
  if (found.faults.length === 0) return { ...found, faults: [`works, although it is said not to: ${limit}`] };
  return { ...found, faults: [], result: `fails: ${limit}` };
}

const HEADS = ["stack", "as", "case", "keyframes whole of sent", "pings heard, texts acknowledged of sent", "first picture, s", "connected", "result"];
const line = (cells) => `| ${cells.map((cell) => String(cell).replaceAll("|", "\\|")).join(" | ")} |`;
const shown = (value, digits = 0) => (Number.isFinite(value) ? value.toFixed(digits) : "–");

const rowLine = ({ stack, as, row: name, sent, received, pings, said, acknowledged, first, connected, result }) => line([
  stack, as, name, Number.isFinite(sent) ? `${received} of ${sent}` : "–",
  Number.isFinite(said) ? `${pings}, ${acknowledged} of ${said}` : "–", shown(first, 2), connected ?? "–", result,
]);

/** What of a line is the same in every run. */
const essence = (text) => {
  const cells = text.split(/(?<!\\)\|/).map((cell) => cell.trim());
  return [cells[1], cells[2], cells[3], cells[8]].join(" | ");
};

/** Writes table.md. */
export function write(rows, stacks) {
  const text = [
    "# With other stacks", "",
    "What each stack did as the Mac of `send` and as the phone of `recv`, with keyframes of about 100 KB twice a second, over",
    "loopback. “Whole” means that the SHA-256 of the access unit is that of the one that was sent. The first picture counts from",
    "the answer. In “restart” `send` was stopped for 6 s, or the phone restarted ICE; with “kill” and “return” the pictures after",
    "it count. `tests/foreign/run.sh` runs each row, and fails when a result is another than the one here.", "",
    "<!-- written by `tests/foreign/run.sh --table` -->", "",
    `${stacks.map(({ name, version }) => `${name}: ${version}`).join(" · ")}`, "",
    line(HEADS), `|${"---|".repeat(HEADS.length)}`, ...rows.map(rowLine), "",
  ];
  writeFileSync(FILE, text.join("\n"));
}

/** The rows as they stand in table.md. */
export const lines = (rows) => rows.map(rowLine);

/** Rows that table.md does not have. */
export function missing(rows) {
  const known = new Set(readFileSync(FILE, "utf8").split("\n").filter((text) => text.startsWith("| ")).map(essence));
  return lines(rows).filter((text) => !known.has(essence(text)));
}
