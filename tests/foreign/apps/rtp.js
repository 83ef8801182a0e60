// Keyframes in RTP packets (RFC 6184): reassembles access units with an IDR picture, for stacks that pass packets to
// the app, and packetizes one for an app that is the phone.

import { createHash } from "node:crypto";

/** Interval between two pictures of the phone, ms. */
export const EVERY = 500;

const [IDR, SPS, STAP_A, FU_A] = [5, 7, 24, 28];

/** Maximum number of incomplete access units; older ones are dropped. */
const UNITS = 16;

/** NAL unit types that start in a payload. */
function types(payload) {
  const type = payload[0] & 31;
  if (type === FU_A) return payload[1] & 0x80 ? [payload[1] & 31] : [];
  if (type !== STAP_A) return [type];
  const found = [];
  for (let at = 1; at + 2 < payload.length; at += 2 + payload.readUInt16BE(at)) found.push(payload[at + 2] & 31);
  return found;
}

const START_CODE = Buffer.from([0, 0, 0, 1]);

/** Payloads as bytes of an access unit with four-byte start codes (ITU-T H.264 Annex B). */
function annexB(payload) {
  const type = payload[0] & 31;
  if (type === FU_A) {
    const part = payload.subarray(2);
    return payload[1] & 0x80 ? [START_CODE, Buffer.from([(payload[0] & 0xe0) | (payload[1] & 31)]), part] : [part];
  }
  if (type !== STAP_A) return [START_CODE, payload];
  const parts = [];
  for (let at = 1; at + 2 < payload.length; at += 2 + payload.readUInt16BE(at)) {
    parts.push(START_CODE, payload.subarray(at + 2, at + 2 + payload.readUInt16BE(at)));
  }
  return parts;
}

/** Calls `emit` once for every complete keyframe: all packets from its SPS to the marker bit. */
export class KeyframeCounter {
  #units = new Map();

  constructor(emit) {
    this.emit = emit;
  }

  /** A packet as received from the network. */
  onBytes(bytes) {
    if (bytes.length < 12 || bytes[0] >> 6 !== 2) return;
    let start = 12 + 4 * (bytes[0] & 15);
    if (bytes[0] & 0x10) start += 4 + 4 * bytes.readUInt16BE(start + 2);
    const end = bytes[0] & 0x20 ? bytes.length - bytes[bytes.length - 1] : bytes.length;
    this.onPacket({
      marker: bytes[1] >> 7 === 1, sequence: bytes.readUInt16BE(2), timestamp: bytes.readUInt32BE(4),
      payload: bytes.subarray(start, end),
    });
  }

  onPacket({ marker, sequence, timestamp, payload }) {
    if (payload.length === 0) return;
    const unit = this.#unit(timestamp);
    if (unit.done) return;
    const found = types(payload);
    unit.packets.set(sequence, Buffer.from(payload));
    if (found.includes(SPS)) unit.first = sequence;
    if (found.includes(IDR)) unit.idr = true;
    if (marker) unit.last = sequence;
    if (!unit.idr || unit.first === undefined || unit.last === undefined) return;
    const parts = [];
    for (let at = unit.first; ; at = (at + 1) & 0xffff) {
      if (!unit.packets.has(at)) return;
      parts.push(...annexB(unit.packets.get(at)));
      if (at === unit.last) break;
    }
    unit.done = true;
    const sha256 = createHash("sha256").update(Buffer.concat(parts)).digest("hex");
    this.emit("keyframe", { rtpTimestamp: timestamp, packets: unit.packets.size, sha256 });
  }

  #unit(timestamp) {
    if (!this.#units.has(timestamp)) this.#units.set(timestamp, { packets: new Map() });
    if (this.#units.size > UNITS) this.#units.delete(this.#units.keys().next().value);
    return this.#units.get(timestamp);
  }
}

/** Maximum payload of a packet, bytes. */
const PAYLOAD = 1188;

/** NAL units of an access unit with start codes (ITU-T H.264 Annex B). */
function nalUnits(bytes) {
  const starts = [];
  for (let at = 0; (at = bytes.indexOf("\0\0\x01", at, "latin1")) >= 0; at += 3) starts.push(at);
  return starts.map((start, index) => {
    let end = starts[index + 1] ?? bytes.length;
    while (bytes[end - 1] === 0) end -= 1;
    return bytes.subarray(start + 3, end);
  });
}

/** Payloads of an access unit, as single NAL units and FU-As; the last one takes the marker bit. */
export function payloads(accessUnit) {
  return nalUnits(accessUnit).flatMap((unit) => {
    if (unit.length <= PAYLOAD) return [unit];
    const parts = [];
    for (let at = 1; at < unit.length; at += PAYLOAD - 2) {
      const part = unit.subarray(at, at + PAYLOAD - 2);
      const bits = (at === 1 ? 0x80 : 0) | (at + part.length === unit.length ? 0x40 : 0);
      parts.push(Buffer.concat([Buffer.from([(unit[0] & 0xe0) | FU_A, bits | (unit[0] & 31)]), part]));
    }
    return parts;
  });
}
