// Disturbances of a call between `orion-peer` and an app on another stack, and the required outcome.
//
// Each case takes a call whose server is running, and returns the figures of its row and its faults.

import { pause, until } from "./process.js";

/** Time within which a returning Mac must receive keyframes. */
const BACK_WITHIN = 10_000;

/** Time within which `--once` must end after a kill: 35 s, and a margin for a busy machine. */
const ONCE_WITHIN = 40_000;

/** Faults if keyframes were lost, or if there are too few. */
function intact(figures, minimum) {
  const faults = [];
  if (figures.lost.length > 0) faults.push(`lost keyframes ${figures.lost.join(", ")}`);
  if (figures.received < minimum) faults.push(`${figures.received} keyframes instead of ${minimum}`);
  return faults;
}

/** Offers as received by the app. */
const offers = (app, from = 0) => app.signals("offer").filter(({ t }) => t >= from);

function expectOffers(found, expected, faults) {
  if (found.length !== expected) {
    const shown = found.map(({ fingerprint, ufrag }) => `${fingerprint?.slice(8, 19)}… ${ufrag}`).join(", ");
    faults.push(`${found.length} offers instead of ${expected}${shown && `: ${shown}`}`);
  }
}

/** Nothing happens for 10 s. */
async function steady(call) {
  const app = await call.app();
  call.orion("send");
  const first = await call.keyframe(app);
  await pause(10_000);
  const to = Date.now();
  await pause(500);
  const figures = call.count(first.t - 500, to);
  const faults = intact(figures, 9);
  expectOffers(offers(app), 1, faults);
  // A decoder may lag by one picture that is not followed by another yet, and by a second of polling.
  const decoded = app.events("decoded").at(-1)?.count ?? 0;
  if (call.stack.decodes && decoded < figures.received - 2) faults.push(`${decoded} keyframes decoded`);
  return { ...figures, offers: offers(app).length, faults };
}

/** D2: only the Mac's signaling socket is lost for 3 s; nothing is offered, because the connection is alive. */
async function socketAway(call) {
  const app = await call.app();
  call.orion("send");
  const first = await call.keyframe(app);
  await pause(2500);
  const dropped = Date.now();
  app.type("drop-signaling 3000");
  await until("return of the socket", 20_000, () => app.events("joined")[1]);
  await pause(8000);
  const to = Date.now();
  await pause(500);
  const figures = call.count(first.t - 500, to);
  const faults = intact(figures, 12);
  expectOffers(offers(app, dropped), 0, faults);
  return { ...figures, offers: offers(app).length, faults };
}

/** D3: the Mac is killed, and a new process returns. */
const killed = (away) => async (call) => {
  const old = await call.app();
  call.orion("send");
  await call.keyframe(old);
  await pause(2500);
  old.kill();
  await pause(away);
  const app = await call.app();
  const joined = app.events("joined")[0].t;
  const first = await call.keyframe(app, 2 * BACK_WITHIN).catch(() => null);
  if (first) await pause(4000);
  const to = Date.now();
  await pause(500);
  const lastOld = Math.max(...old.events("keyframe").map(({ t }) => t));
  const figures = call.count(first?.t - 50, to);
  const faults = first ? intact(figures, 3) : [`no keyframe in ${2 * BACK_WITHIN / 1000} s`];
  if (first?.t > joined + BACK_WITHIN) faults.push(`the first keyframe arrived ${(first.t - joined) / 1000} s after the return`);
  expectOffers(offers(app), 1, faults);
  const before = new Set(offers(old).map(({ fingerprint }) => fingerprint));
  if (offers(app).some(({ fingerprint }) => before.has(fingerprint))) faults.push("an offer of the dead connection");
  return { ...figures, gap: first ? (first.t - lastOld) / 1000 : Infinity, offers: offers(app).length, faults };
};

/** The Mac joins after the offer and takes 5 s to answer: it gets no second offer. */
async function slowAnswer(call) {
  call.orion("send");
  await pause(1500);
  const app = await call.app({ answerAfter: 5000 });
  const first = await call.keyframe(app);
  await pause(5000);
  const to = Date.now();
  await pause(500);
  const figures = call.count(first.t - 500, to);
  const faults = intact(figures, 4);
  expectOffers(offers(app), 1, faults);
  return { ...figures, offers: offers(app).length, faults };
}

/** How long `--once` runs after the app was killed, and how it ends. */
async function onceEnds(call, app) {
  app.kill();
  const since = Date.now();
  await Promise.race([call.peer.exit, pause(ONCE_WITHIN + 5000)]);
  const { code, t } = call.peer.ended ?? {};
  const faults = [];
  if (t === undefined) faults.push(`still running after ${(Date.now() - since) / 1000} s`);
  else if (t > since + ONCE_WITHIN) faults.push(`ended after ${(t - since) / 1000} s`);
  if (t !== undefined && code !== 1) faults.push(`exit code ${code}`);
  return { after: (t - since) / 1000, faults };
}

/** D4: `send --once` with a killed Mac. */
async function sendOnce(call) {
  const app = await call.app();
  call.orion("send", "--once");
  const first = await call.keyframe(app);
  await pause(2500);
  const figures = call.count(first.t - 500, Date.now() - 500);
  return { ...figures, offers: offers(app).length, ...(await onceEnds(call, app)) };
}

/** D4: `recv --once` with a killed phone. */
async function recvOnce(call, { unit, folder }) {
  const app = await call.app({ role: "phone", unit });
  call.orion("recv", "--once", "--out", folder(call));
  await until("keyframe", 45_000, () => {
    if (call.peer.ended) throw new Error(`recv ended with ${call.peer.ended.code}`);
    return call.peer.output.find(({ kind }) => kind === "keyframe");
  });
  await pause(1000);
  const received = call.peer.output.filter(({ kind }) => kind === "keyframe").length;
  return { received, ...(await onceEnds(call, app)) };
}

/** By lane: the cases of one lane run one after the other. */
export const LANES = [
  [
    ["steady", "10 s without events", steady],
    ["socket-away", "the Mac's signaling socket is lost for 3 s", socketAway],
    ["killed-1.5s", "the Mac is killed, and a new one joins after 1.5 s", killed(1500)],
    ["killed-8s", "the Mac is killed, and a new one joins after 8 s", killed(8000)],
    ["slow-answer", "the Mac takes 5 s to answer", slowAnswer],
  ],
  [
    ["send-once", "the Mac of `send --once` is killed", sendOnce],
    ["recv-once", "the phone of `recv --once` is killed", recvOnce],
  ],
].map((lane) => lane.map(([name, does, run]) => ({ name, does, run })));
