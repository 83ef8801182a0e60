// What may be changed between Chromium and signaling: which candidates pass, whether they come one by one, and
// what the descriptions say.

const kept = {
  ipv6: (address) => address.includes(":"),
  local: (address) => address.endsWith(".local"),
};

const wire = { halfTrickle: false, keep: null, deaf: false, sent: [], received: [] };

/** Settings of one connection. `halfTrickle`: candidates in the description, none by themselves. `keep`: only
 * these candidates pass, in both directions. `deaf`: none of theirs is taken. `sent` and `received`: pairs of a
 * regular expression and what is put in its place in every description. */
export function setWire({ halfTrickle = false, keep = null, deaf = false, sent = [], received = [] }) {
  Object.assign(wire, { halfTrickle, keep: keep && kept[keep], deaf, sent, received });
}

const passes = (candidate) => !wire.keep || candidate === "" || wire.keep(candidate.split(" ")[4] ?? "");

/** Whether a candidate of this side is told. */
export const tells = (candidate) => !wire.halfTrickle && passes(candidate);

/** Whether a candidate of the other side is taken. */
export const takes = (candidate) => !wire.deaf && passes(candidate);

function change(sdp, changes) {
  const lines = sdp.split("\r\n").filter((line) => !line.startsWith("a=candidate:") || passes(line));
  return changes.reduce((text, [from, to]) => text.replace(new RegExp(from, "gm"), to), lines.join("\r\n"));
}

/** A description as it is sent: with half-trickle not before all candidates are in it. */
export async function outgoing(pc) {
  if (wire.halfTrickle && pc.iceGatheringState !== "complete") {
    await new Promise((resolve) => {
      pc.addEventListener("icegatheringstatechange", () => pc.iceGatheringState === "complete" && resolve());
    });
  }
  return change(pc.localDescription.sdp, wire.sent);
}

/** A description of the other side as Chromium gets it. */
export const incoming = (sdp) => change(sdp, wire.received);
