// A summary of `getStats` of a peer connection (W3C webrtc-stats) for the page.

/** Candidate types, from least to most direct. */
const TYPES = ["relay", "srflx", "prflx", "host"];

/** The pair of candidates in use: named by the transport, or marked (Firefox). */
function selectedPair(stats) {
  const all = [...stats.values()];
  const transport = all.find(({ type, selectedCandidatePairId }) => type === "transport" && selectedCandidatePairId);
  if (transport) return stats.get(transport.selectedCandidatePairId);
  return all.find(({ type, state, selected, nominated }) => (
    type === "candidate-pair" && state === "succeeded" && (selected ?? nominated)
  ));
}

/** `host`, `srflx`, `relay/udp`: by the less direct end; only the local relay's transport is known. */
function connectionType(stats, pair) {
  const [local, remote] = [stats.get(pair?.localCandidateId), stats.get(pair?.remoteCandidateId)];
  if (!local || !remote) return null;
  if (local.candidateType === "relay") return `relay/${local.relayProtocol ?? "udp"}`;
  return TYPES.find((type) => [local.candidateType, remote.candidateType].includes(type)) ?? null;
}

/** Totals of one peer connection; all zero without one. */
export async function summary(pc) {
  const sums = {
    connectionType: null,
    rttMs: null,
    video: { sent: 0, received: 0 },
    data: { sent: 0, received: 0 },
    retransmitted: { sent: 0, received: 0 },
    framesDecoded: 0,
  };
  if (!pc) return sums;
  const stats = await pc.getStats();
  const add = (name, direction, value) => {
    sums[name][direction] += value ?? 0;
  };
  for (const entry of stats.values()) {
    if (entry.type === "inbound-rtp" && entry.kind === "video") {
      add("video", "received", entry.bytesReceived);
      add("retransmitted", "received", entry.retransmittedPacketsReceived);
      sums.framesDecoded += entry.framesDecoded ?? 0;
    } else if (entry.type === "outbound-rtp" && entry.kind === "video") {
      add("video", "sent", entry.bytesSent);
      add("retransmitted", "sent", entry.retransmittedPacketsSent);
    } else if (entry.type === "data-channel") {
      add("data", "sent", entry.bytesSent);
      add("data", "received", entry.bytesReceived);
    }
  }
  const pair = selectedPair(stats);
  sums.connectionType = connectionType(stats, pair);
  if (pair?.currentRoundTripTime !== undefined) sums.rttMs = pair.currentRoundTripTime * 1e3;
  return sums;
}
