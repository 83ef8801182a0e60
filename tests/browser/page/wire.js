// Modifications between Chromium and signaling: which candidates pass, whether they are trickled, and the content of
// the descriptions.

const kept = {
  ipv6: (address) => address.includes(":"),
  local: (address) => address.endsWith(".local"),
};

const wire = { halfTrickle: false, keep: null, deaf: false, sent: [], received: [] };

/** Settings of one connection. `halfTrickle`: candidates only in the description. `keep`: only
 * these candidates pass, in both directions. `deaf`: remote candidates are ignored. `sent` and `received`:
 * pairs of a regular expression and its replacement in every description. */
export function setWire({ halfTrickle = false, keep = null, deaf = false, sent = [], received = [] }) {
  Object.assign(wire, { halfTrickle, keep: keep && kept[keep], deaf, sent, received });
}

const passes = (candidate) => !wire.keep || candidate === "" || wire.keep(candidate.split(" ")[4] ?? "");

/** Whether a local candidate is sent. */
export const isSent = (candidate) => !wire.halfTrickle && passes(candidate);

/** Whether a remote candidate is accepted. */
export const isAccepted = (candidate) => !wire.deaf && passes(candidate);

function change(sdp, changes) {
  const lines = sdp.split("\r\n").filter((line) => !line.startsWith("a=candidate:") || passes(line));
  return changes.reduce((text, [from, to]) => text.replace(new RegExp(from, "gm"), to), lines.join("\r\n"));
}

/** A description as sent: with half-trickle only once it contains all candidates. */
export async function outgoing(pc) {
  if (wire.halfTrickle && pc.iceGatheringState !== "complete") {
    await new Promise((resolve) => {
      pc.addEventListener("icegatheringstatechange", () => pc.iceGatheringState === "complete" && resolve());
    });
  }
  return change(pc.localDescription.sdp, wire.sent);
}

/** A remote description as passed to Chromium. */
export const incoming = (sdp) => change(sdp, wire.received);
