// Attacks by a paired device over SCTP on the `orion-peer` to which it is connected, and the required outcome: the
// connection is replaced, with a line that reports the reason, and keyframes are transferred again.
//
// `rtc-sctp` 0.21.1 panics on a cause longer than its chunk (chunk/mod.rs:149), and iterates over 2^31 sequence numbers
// for one FORWARD-TSN (association/mod.rs:1567).

import { readFileSync, readdirSync } from "node:fs";

import { pause, until } from "./process.js";

/** Time limit for the new offer after the driver has ended, ms: 2 s, plus signaling and a margin for a busy machine. */
const REPLACED = 10_000;

/** The same, if only unanswered pings indicate that the connection is dead. */
const NOTICED = 30_000;

/** Keyframes wanted on the new connection. */
const AFTER = 3;

/** Time limit for them, ms: a connection has to be established first. */
const FLOWING = 20_000;

/** Time limit after the second Ctrl-C, with a margin for a busy machine, ms. */
const KILLED_WITHIN = 2000 + 1000;

/** A driver without malicious input uses less CPU time than this in a whole case, ms. */
const SPUN = 1500;

/** `USER_HZ` of Linux: clock ticks of /proc, ms. */
const TICK = 10;

/** Two bytes of cause code in a cause that claims to have eight: an ERROR and an ABORT chunk. */
const ERROR_CAUSE = "0900000800010008";
const ABORT_CAUSE = "0600000800010008";
const ABORT = "06000004";

const PANIC = /driver panicked/;
/** Output of the panic hook of Rust's standard library; longer with RUST_BACKTRACE. */
const RAW_PANIC = /^thread '.*' .*panicked at|stack backtrace:/;
const UNRESPONSIVE = /driver .*unresponsive/;
const DEAD = /connection is dead: .*(control channel|pings)/;

const keyframesOf = (peer) => peer.output.filter(({ kind }) => kind === "keyframe");

/** Lines on stderr since `from` that match. */
const lines = (peer, what, from) =>
  peer.lines.filter(({ from: stream, t, text }) => stream === "stderr" && t >= from && what.test(text));

/** CPU time of each thread that drives a connection, ms by thread. */
function drivers({ process: { pid } }) {
  const tasks = `/proc/${pid}/task`;
  return new Map(readdirSync(tasks).flatMap((task) => {
    try {
      const [, name, rest] = /\((.*)\) (.*)/s.exec(readFileSync(`${tasks}/${task}/stat`, "utf8"));
      const fields = rest.split(" ");
      return name === "peer-driver" ? [[task, (Number(fields[11]) + Number(fields[12])) * TICK]] : [];
    } catch {
      return [];
    }
  }));
}

/** The Mac is the app: pictures of the new connection as received by it. */
const MAC = {
  app: { renew: true },
  start: (call) => call.orion("send"),
  keyframes: (call, app) => app.events("keyframe").map(({ t }) => t),
  offers: (app) => app.signals("offer").map(({ t, fingerprint }) => ({ t, fingerprint })),
};

/** The phone is the app: it offers again on request, and `recv` verifies the keyframes. */
const PHONE = {
  app: { role: "phone" },
  start: (call, { folder }) => call.orion("recv", "--out", folder(call)),
  keyframes: (call) => keyframesOf(call.peer).map(({ at }) => at),
  offers: (app) => app.events("sent").filter(({ what }) => what === "offer"),
};

/** Waits, unless `orion-peer` has ended. */
const alive = (call, what, ms, probe) => until(what, ms, () => {
  if (call.peer.ended) throw new Error(`${call.peer.name} ended with ${call.peer.ended.code}`);
  return probe();
});

/** The attack, the replacement, and keyframes over the new connection; returns times and faults. */
async function replaced(call, given, side, { attack, within, line }) {
  const app = await call.app({ ...side.app, unit: given.unit });
  side.start(call, given);
  await alive(call, "keyframe", 45_000, () => side.keyframes(call, app)[1]);
  const [known] = side.offers(app).slice(-1);
  const attacked = Date.now();
  app.type(attack);
  await alive(call, "attack", 5000, () => app.events("attacked")[0]);
  const fresh = await alive(call, "fresh offer", within, () =>
    side.offers(app).find(({ t, fingerprint }) => t > attacked && (!fingerprint || fingerprint !== known.fingerprint)));
  const up = await alive(call, "connection after the fresh offer", FLOWING, () =>
    app.events("connection").find(({ t, state }) => t >= fresh.t && state === "connected"));
  const after = () => side.keyframes(call, app).filter((t) => t > up.t);
  await alive(call, `${AFTER} keyframes after the fresh offer`, FLOWING, () => after().length >= AFTER);
  const faults = [];
  const reasons = lines(call.peer, line, attacked);
  if (reasons.length === 0) faults.push(`no line reports the reason: ${line}`);
  if (reasons.length > 1) faults.push(`${reasons.length} lines instead of one: ${reasons.map(({ text }) => text).join(" | ")}`);
  const raw = lines(call.peer, RAW_PANIC, attacked);
  if (raw.length > 0) faults.push(`the panic itself is on stderr: ${raw[0].text}`);
  const offered = side.offers(app).filter(({ t }) => t > attacked).length;
  if (offered !== 1) faults.push(`${offered} fresh offers instead of 1`);
  const before = side.keyframes(call, app).filter((t) => t < up.t).at(-1);
  const all = side.keyframes(call, app);
  return { received: all.length, gap: (after()[0] - before) / 1000, offers: side.offers(app).length, faults };
}

const attacked = (side, how) => (call, given) => replaced(call, given, side, how);

/** The driver is busy for minutes; it is abandoned, and does not keep the process from ending. */
const spinning = (side) => async (call, given) => {
  const row = await replaced(call, given, side, { attack: "forward-tsn 40", within: REPLACED, line: UNRESPONSIVE });
  const [{ peer }, { faults }] = [call, row];
  // On a busy machine it takes a while to use that much CPU time.
  let spins = false;
  for (let look = 0; look < 10 && !spins; look += 1) {
    const was = drivers(peer);
    await pause(1000);
    spins = [...drivers(peer)].some(([task, time]) => time > SPUN && time > was.get(task));
  }
  if (!spins) faults.push("the old driver is not spinning: this case tests nothing");
  const since = Date.now();
  peer.process.kill("SIGINT");
  await Promise.race([peer.exit, pause(5000)]);
  if (!peer.ended) {
    const second = Date.now();
    peer.process.kill("SIGINT");
    await Promise.race([peer.exit, pause(KILLED_WITHIN)]);
    if (!peer.ended) faults.push(`still running ${Date.now() - second} ms after the second Ctrl-C`);
  }
  return { ...row, after: ((peer.ended?.t ?? Infinity) - since) / 1000 };
};

const panicking = (chunk) => ({ attack: `sctp ${chunk}`, within: REPLACED, line: PANIC });
const unnoticed = (attack) => ({ attack, within: NOTICED, line: DEAD });

/** By lane, as in cases.js. */
export const LANES = [
  [
    ["error-cause-mac", "the Mac sends an ERROR whose cause is longer than its chunk", attacked(MAC, panicking(ERROR_CAUSE))],
    ["abort-cause-mac", "the Mac sends an ABORT whose cause is longer than its chunk", attacked(MAC, panicking(ABORT_CAUSE))],
    ["error-cause-phone", "the phone sends an ERROR whose cause is longer than its chunk", attacked(PHONE, panicking(ERROR_CAUSE))],
    ["abort-cause-phone", "the phone sends an ABORT whose cause is longer than its chunk", attacked(PHONE, panicking(ABORT_CAUSE))],
  ],
  [
    ["forward-tsn-mac", "the Mac sends 40 FORWARD-TSNs with the maximum advance", spinning(MAC)],
    ["forward-tsn-phone", "the phone sends 40 FORWARD-TSNs with the maximum advance", spinning(PHONE)],
  ],
  [
    ["abort-mac", "the Mac aborts the association", attacked(MAC, unnoticed(`sctp ${ABORT}`))],
    ["channel-closed-mac", "the Mac closes the control channel", attacked(MAC, unnoticed("close-channel"))],
  ],
  [
    ["abort-phone", "the phone aborts the association", attacked(PHONE, unnoticed(`sctp ${ABORT}`))],
    ["channel-closed-phone", "the phone closes the control channel", attacked(PHONE, unnoticed("close-channel"))],
  ],
].map((lane) => lane.map(([name, does, run]) => ({ name, does, run, hostile: true })));
