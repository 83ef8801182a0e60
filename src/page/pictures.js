// Pictures of a peer connection: `PictureReceiver` takes each decoded picture of a track, `PictureSender` creates
// the pictures of the phone. Both pass each one to the view as a keyframe.

import { summary } from "./stats.js";

const QUALITY = 0.9;

/** After this time a picture has been sent completely, ms. */
const SETTLED = 300;

/** Maximum number of `keyframe` messages kept for pictures that have not arrived. */
const MAX_ANNOUNCED = 16;

/** Accepted ranges of a phone's settings. */
const LIMITS = { intervalMs: [250, 600_000], width: [16, 4096], height: [16, 4096] };

const BARS = ["#bfbfbf", "#bfbf00", "#00bfbf", "#00bf00", "#bf00bf", "#bf0000", "#0000bf"];

const pictureOf = (canvas) => new Promise((resolve) => {
  canvas.toBlob((blob) => resolve(blob ? URL.createObjectURL(blob) : null), "image/jpeg", QUALITY);
});

/** Traffic in a direction since the summary `before`; packets are omitted, because they may be padding. */
const since = (before, now, direction) => ({
  bytes: now.video[direction] - before.video[direction] || null,
  retransmitted: now.retransmitted[direction] - before.retransmitted[direction],
});

/**
 * The Mac: takes each picture of the received video. If the browser can read a track, each picture is available
 * immediately; a video element may delay one until the next arrives, or while the page is hidden.
 */
export class PictureReceiver {
  /** `clockOffset()` returns how far the phone's clock is ahead in seconds, or null. */
  constructor(video, view, clockOffset) {
    Object.assign(this, { video, view, clockOffset });
    Object.assign(this, { seq: 0, announced: new Map(), taken: new Map(), pc: null });
    /** Whether a picture was taken since the last poll, and whether one is missing and due at the next. */
    Object.assign(this, { decoded: 0, notified: false, due: false });
    const next = (_, metadata) => {
      this.callback = video.requestVideoFrameCallback(next);
      this.takeShown(metadata);
    };
    this.callback = video.requestVideoFrameCallback?.(next);
  }

  /** Attaches to a new peer connection. */
  follow(pc) {
    Object.assign(this, { pc, before: null, decoded: 0, due: false });
    pc.ontrack = ({ track, receiver }) => {
      if (track.kind !== "video") return;
      // No jitter buffering: pictures are seconds apart.
      if ("jitterBufferTarget" in receiver) receiver.jitterBufferTarget = 0;
      if ("MediaStreamTrackProcessor" in window) {
        this.read(track).catch(() => {});
        return;
      }
      this.video.srcObject = new MediaStream([track]);
      this.video.play().catch(() => {});
    };
  }

  /** Takes each picture of a track until the track ends (W3C mediacapture-transform). */
  async read(track) {
    const reader = new MediaStreamTrackProcessor({ track }).readable.getReader();
    for (;;) {
      const { value: frame, done } = await reader.read();
      if (done) return;
      const { displayWidth: width, displayHeight: height } = frame;
      this.take(frame, width, height, frame.metadata?.());
      frame.close();
    }
  }

  /** Called once a second: takes a picture that no callback reported (hidden page, old browser). */
  poll({ framesDecoded }) {
    if (this.due && !this.notified) this.takeShown();
    this.due = framesDecoded > this.decoded && !this.notified;
    this.notified = false;
    this.decoded = framesDecoded;
  }

  takeShown(metadata) {
    const { videoWidth, videoHeight } = this.video;
    this.take(this.video, videoWidth, videoHeight, metadata);
  }

  async take(source, width, height, { rtpTimestamp, receiveTime } = {}) {
    const { pc } = this;
    if (!pc || width === 0 || this.taken.has(rtpTimestamp)) return;
    this.notified = true;
    const canvas = document.createElement("canvas");
    Object.assign(canvas, { width, height });
    canvas.getContext("2d").drawImage(source, 0, 0, width, height);
    this.seq += 1;
    const { seq } = this;
    const late = performance.now() - (receiveTime ?? NaN);
    const receivedAt = Date.now() / 1e3 - (late > 0 && late < 5000 ? late / 1e3 : 0);
    remember(this.taken, rtpTimestamp, { seq, receivedAt });
    const [url, now] = await Promise.all([pictureOf(canvas), summary(pc)]);
    const counted = since(this.before ?? await summary(null), now, "received");
    this.before = now;
    const announced = this.announced.get(rtpTimestamp);
    this.announced.delete(rtpTimestamp);
    this.view.keyframe({
      seq, url, width, height, receivedAt, verified: null, ...counted,
      ...(announced && this.detail(announced, receivedAt)),
    });
  }

  /** Handles a `keyframe` message, which may arrive before or after its picture. */
  announce(message) {
    const taken = this.taken.get(message.rtpTimestamp);
    if (taken) this.view.keyframe({ seq: taken.seq, ...this.detail(message, taken.receivedAt) });
    else remember(this.announced, message.rtpTimestamp, message);
  }

  detail({ bytes, captureTime }, receivedAt) {
    const offset = this.clockOffset();
    const latencyMs = offset === null ? null : (receivedAt - captureTime + offset) * 1e3;
    return { bytes, captureTime, latencyMs };
  }

  end() {
    this.pc = null;
    this.video.cancelVideoFrameCallback?.(this.callback);
    this.video.srcObject = null;
  }
}

function remember(map, key, value) {
  if (key === undefined) return;
  map.set(key, value);
  if (map.size > MAX_ANNOUNCED) map.delete(map.keys().next().value);
}

/** The phone: sends one picture per interval from a camera or a test pattern. */
export class PictureSender {
  constructor(canvas, view, { source, intervalMs }) {
    Object.assign(this, { canvas, view, source, intervalMs });
    Object.assign(this, { seq: 0, sender: null, pc: null, before: null });
    Object.assign(canvas, { width: 1280, height: 720 });
  }

  /** Opens the camera, if selected, and the stream; throws if that fails. */
  async open() {
    if (this.source === "camera") {
      if (!navigator.mediaDevices) throw new Error("the camera requires https or localhost");
      const size = { width: { ideal: 1280 }, height: { ideal: 720 } };
      this.camera = document.createElement("video");
      Object.assign(this.camera, { muted: true, playsInline: true });
      this.camera.srcObject = await navigator.mediaDevices.getUserMedia({
        video: { ...size, facingMode: "environment" },
      });
      await this.camera.play();
      const { videoWidth: width, videoHeight: height } = this.camera;
      Object.assign(this.canvas, { width, height });
    }
    this.paint();
    this.stream = this.canvas.captureStream(0);
    [this.track] = this.stream.getVideoTracks();
    // Keeps the resolution when bandwidth is low.
    this.track.contentHint = "detail";
  }

  /** Attaches to a new peer connection. */
  follow(pc) {
    Object.assign(this, { pc, before: null });
    const transceiver = pc.addTransceiver(this.track, { direction: "sendonly", streams: [this.stream] });
    this.sender = transceiver.sender;
    const codecs = RTCRtpSender.getCapabilities("video").codecs.filter(
      ({ mimeType }) => mimeType.toLowerCase() === "video/h264",
    );
    if (codecs.length === 0) throw new Error("this browser has no H.264 encoder");
    // Constrained baseline with packetization mode 1 first, as required by the contract.
    const rank = ({ sdpFmtpLine = "" }) => (/packetization-mode=1/.test(sdpFmtpLine) &&
      /profile-level-id=42e01f/i.test(sdpFmtpLine) ? 0 : 1);
    transceiver.setCodecPreferences(codecs.sort((a, b) => rank(a) - rank(b)));
  }

  /** Starts sending once connected, beginning immediately. */
  begin() {
    clearInterval(this.timer);
    const next = () => this.now().catch(() => {});
    this.timer = setInterval(next, this.intervalMs);
    next();
  }

  pause() {
    clearInterval(this.timer);
    Object.assign(this, { pc: null, before: null });
  }

  /** Creates one picture and sends it as a keyframe. */
  async now() {
    const { pc } = this;
    if (!pc) throw new Error("not connected");
    const before = await summary(pc);
    await this.requestKeyframe();
    const receivedAt = Date.now() / 1e3;
    // Some browsers have requestFrame on the stream. The next drawn picture is sent.
    (this.track.requestFrame ? this.track : this.stream).requestFrame();
    this.paint();
    this.seq += 1;
    const { seq } = this;
    const { width, height } = this.canvas;
    const url = await pictureOf(this.canvas);
    if (pc !== this.pc) return;
    Object.assign(this, { before, sent: seq });
    this.view.keyframe({ seq, url, width, height, receivedAt, captureTime: receivedAt, verified: null });
    // Determines the size early, because the user may leave the page before the next poll.
    setTimeout(async () => {
      if (pc === this.pc && this.sent === seq) this.poll(await summary(pc));
    }, SETTLED);
  }

  /** Called once a second: updates the size of the picture being sent. */
  poll(now) {
    if (this.before) this.view.keyframe({ seq: this.sent, ...since(this.before, now, "sent") });
  }

  async requestKeyframe() {
    try {
      await this.sender.setParameters(this.sender.getParameters(), { encodingOptions: [{ keyFrame: true }] });
    } catch {
      // Without support for this option, the encoder decides.
    }
  }

  /** Applies a `set` message, or throws the reason why it cannot. */
  set({ intervalMs, width, height, maxBytes }) {
    if (maxBytes !== undefined) throw new Error("a browser cannot limit maxBytes");
    for (const [name, value] of Object.entries({ intervalMs, width, height })) {
      const [minimum, maximum] = LIMITS[name];
      if (value !== undefined && !(value >= minimum && value <= maximum)) {
        throw new Error(`${name} must be from ${minimum} to ${maximum}`);
      }
    }
    Object.assign(this.canvas, { width: width ?? this.canvas.width, height: height ?? this.canvas.height });
    this.intervalMs = intervalMs ?? this.intervalMs;
    if (this.pc) this.begin();
  }

  paint() {
    const { width, height } = this.canvas;
    const context = this.canvas.getContext("2d");
    if (this.camera) {
      context.drawImage(this.camera, 0, 0, width, height);
      return;
    }
    BARS.forEach((colour, index) => {
      context.fillStyle = colour;
      context.fillRect(Math.floor(index * width / BARS.length), 0, Math.ceil(width / BARS.length), height);
    });
    const now = new Date();
    const size = Math.round(Math.min(width / 9, height / 4));
    context.fillStyle = "#101010";
    context.fillRect(0, height / 2 - size, width, size * 2);
    context.fillStyle = "#fff";
    context.font = `600 ${size}px ui-monospace, monospace`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillText(now.toISOString().slice(11, 23), width / 2, height / 2, width);
    // One pass per minute.
    context.fillRect((now % 60_000) / 60_000 * (width - size / 2), height - size / 2, size / 2, size / 2);
  }

  end() {
    this.pause();
    this.track?.stop();
    this.camera?.srcObject?.getTracks().forEach((track) => track.stop());
  }
}
