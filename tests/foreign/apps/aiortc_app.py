"""aiortc: WebRTC written in Python. It gathers all candidates before its description, and does not support ICE restarts.

An offer with another fingerprint or other ICE credentials on an established connection is answered without effect; with
`--renew`, another fingerprint gets a new connection. This app sends arbitrary chunks on request, and is the hostile app.
"""

import argparse
import asyncio
import fractions
import hashlib
import json
import os
import re
import struct
import sys
import time
import urllib.request

import aioice.ice
import websockets
from aiortc import RTCConfiguration, RTCIceServer, RTCPeerConnection, RTCSessionDescription, VideoStreamTrack
from aiortc.codecs import is_rtx
from aiortc.rtcrtpreceiver import RTCRtpReceiver
from aiortc.rtcrtpsender import RTCRtpSender
from aiortc.rtp import unwrap_rtx
from aiortc.sdp import candidate_from_sdp
from av import Packet

# Interval between two pictures and between two texts of the app, s.
EVERY = SAY_EVERY = 0.5

IDR, SPS, STAP_A, FU_A = 5, 7, 24, 28
BACK_OFF = [0, 0.3, 1.2, 2.7, 4.8, 7]
OVER = ("closed", "failed")
SILENT_AFTER = 4
FORWARD_TSN, FURTHEST = 192, 0x7FFFFFF0


def emit(event, **fields):
    print(json.dumps({"t": round(time.time() * 1000), "event": event, **fields}), flush=True)


def fingerprints(sdp):
    return set(re.findall(r"^a=fingerprint:(.*?)\r?$", sdp, re.M))


def nal_types(payload):
    """NAL unit types that start in a payload (RFC 6184)."""
    kind = payload[0] & 31
    if kind == FU_A:
        return [payload[1] & 31] if payload[1] & 0x80 else []
    if kind != STAP_A:
        return [kind]
    found, at = [], 1
    while at + 2 < len(payload):
        found.append(payload[at + 2] & 31)
        at += 2 + int.from_bytes(payload[at : at + 2], "big")
    return found


START_CODE = b"\0\0\0\1"


def annex_b(payload):
    """A payload as bytes of an access unit with four-byte start codes (ITU-T H.264 Annex B)."""
    kind = payload[0] & 31
    if kind == FU_A:
        begins = START_CODE + bytes([payload[0] & 0xE0 | payload[1] & 31]) if payload[1] & 0x80 else b""
        return begins + payload[2:]
    if kind != STAP_A:
        return START_CODE + payload
    units, at = b"", 1
    while at + 2 < len(payload):
        size = int.from_bytes(payload[at : at + 2], "big")
        units += START_CODE + payload[at + 2 : at + 2 + size]
        at += 2 + size
    return units


class KeyframeCounter:
    """Reports every complete access unit with an IDR picture, from its SPS to the marker bit."""

    def __init__(self):
        self.units = {}

    def on_packet(self, packet):
        if not packet.payload:
            return
        if packet.timestamp not in self.units:
            self.units[packet.timestamp] = {"packets": {}, "first": None, "last": None, "idr": False, "done": False}
            if len(self.units) > 16:
                del self.units[next(iter(self.units))]
        unit = self.units[packet.timestamp]
        if unit["done"]:
            return
        unit["packets"][packet.sequence_number] = packet.payload
        found = nal_types(packet.payload)
        if SPS in found:
            unit["first"] = packet.sequence_number
        unit["idr"] |= IDR in found
        if packet.marker:
            unit["last"] = packet.sequence_number
        if not unit["idr"] or unit["first"] is None or unit["last"] is None:
            return
        count = ((unit["last"] - unit["first"]) & 0xFFFF) + 1
        sequence = [(unit["first"] + at) & 0xFFFF for at in range(count)]
        if any(number not in unit["packets"] for number in sequence):
            return
        unit["done"] = True
        sha256 = hashlib.sha256(b"".join(annex_b(unit["packets"][number]) for number in sequence)).hexdigest()
        emit("keyframe", rtpTimestamp=packet.timestamp, packets=count, sha256=sha256)


# aiortc delivers decoded frames, each only when the next one arrives, and without its RTP timestamp (jitterbuffer.py:75,
# rtcrtpreceiver.py TimestampMapper). Therefore packets are counted before aiortc handles them.
counters = {}
handle_packet = RTCRtpReceiver._handle_rtp_packet


def restored(receiver, packet):
    """The original packet of a retransmission, as restored by aiortc later; None for padding and for unknown streams."""
    codec = receiver._RTCRtpReceiver__codecs.get(packet.payload_type)
    if codec is None or not is_rtx(codec):
        return packet
    ssrc = receiver._RTCRtpReceiver__rtx_ssrc.get(packet.ssrc)
    if ssrc is None or len(packet.payload) < 2:
        return None
    return unwrap_rtx(packet, payload_type=codec.parameters["apt"], ssrc=ssrc)


async def count_packet(receiver, packet, arrival_time_ms):
    original = restored(receiver, packet)
    if original is not None:
        counters.setdefault(receiver, KeyframeCounter()).on_packet(original)
    await handle_packet(receiver, packet, arrival_time_ms)


RTCRtpReceiver._handle_rtp_packet = count_packet


class Chunks:
    """Raw chunks, for `RTCSctpTransport._send_chunk` (rtcsctptransport.py:1511)."""

    def __init__(self, data):
        self.data = data

    def __bytes__(self):
        return self.data

    def __repr__(self):
        return f"Chunks({self.data.hex()})"


def forward_tsns(first, count):
    """FORWARD-TSN chunks (RFC 3758 section 3.2), each with the maximum advance that serial number arithmetic allows."""
    steps = range(1, count + 1)
    return b"".join(struct.pack("!BBHL", FORWARD_TSN, 0, 8, (first + step * FURTHEST) % 2**32) for step in steps)


class Picture(VideoStreamTrack):
    """The phone's track: the same access unit repeatedly, unchanged."""

    step = 0

    def __init__(self, app, is_connected):
        super().__init__()
        self.app, self.is_connected = app, is_connected

    async def recv(self):
        await asyncio.sleep(EVERY)
        self.step += 1
        if self.app.unit is None:
            await asyncio.Event().wait()
        picture = Packet(self.app.unit)
        picture.pts, picture.time_base = round(self.step * EVERY * 90000), fractions.Fraction(1, 90000)
        if self.is_connected():
            emit("picture")
        return picture


class App:
    def __init__(self, arguments):
        self.api, self.role, self.answer_after = arguments.api, arguments.role, arguments.answer_after / 1000
        self.renew = arguments.renew
        self.unit = arguments.unit and open(arguments.unit, "rb").read()
        self.talks, self.said = arguments.talk, 0
        self.pc = self.socket = self.channel = None
        self.heard = 0
        self.closing = set()
        self.away = self.leaving = False
        self.early = []
        self.attempt = 0

    def token(self):
        request = urllib.request.Request(
            f"{self.api}/api/auth/webrtc-token",
            data=json.dumps({"deviceId": self.role}).encode(),
            headers={"Authorization": "Bearer dev", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    async def join(self):
        """Joins with retries; returns once in the room."""
        while not self.leaving:
            await asyncio.sleep(BACK_OFF[min(self.attempt, len(BACK_OFF) - 1)])
            self.attempt += 1
            try:
                answer = await asyncio.to_thread(self.token)
                self.pair, self.ice_servers = answer["pairId"], answer["iceServers"]
                self.socket = await websockets.connect(
                    self.api.replace("http", "ws", 1) + "/api/signal", subprotocols=["orion.v1", f"bearer.{answer['token']}"]
                )
            except (OSError, websockets.WebSocketException) as error:
                emit("error", message=f"signaling: {error}")
                continue
            self.attempt = 0
            emit("joined")
            self.reader = asyncio.create_task(self.read(self.socket))
            return

    async def read(self, socket):
        queue = asyncio.Queue()
        handler = asyncio.create_task(self.handle(queue))
        try:
            async for text in socket:
                message = json.loads(text)
                sdp = message.get("sdp") or ""
                fields = {
                    name: found.group(1).strip()
                    for name, line in (("fingerprint", "fingerprint:(.*)"), ("ufrag", r"ice-ufrag:(\S+)"))
                    if (found := re.search(f"^a={line}", sdp, re.M))
                }
                emit("signal", what=message["t"], **fields)
                queue.put_nowait(message)
        except websockets.ConnectionClosed:
            pass
        queue.put_nowait(None)
        self.socket = None
        emit("left", code=socket.close_code)
        await handler
        if not self.away and not self.leaving:
            await self.join()

    async def handle(self, queue):
        while message := await queue.get():
            try:
                await self.on_message(message)
            except Exception as error:  # Any error of the stack is reported to the test.
                emit("error", message=f"{message['t']}: {error!r}")

    async def send(self, t, **fields):
        if self.socket is None:
            return emit("unsent", what=t)
        await self.socket.send(json.dumps({"t": t, "pairId": self.pair, **fields}))
        emit("sent", what=t)

    async def drop(self, milliseconds):
        self.away = True
        self.socket.transport.abort()
        await asyncio.sleep(milliseconds / 1000)
        self.away = False
        await self.join()

    def drop_connection(self):
        """Closes the connection in the background, because its peer may no longer answer."""
        task = asyncio.create_task(self.pc.close())
        self.closing.add(task)
        task.add_done_callback(self.closing.discard)
        self.pc = self.channel = None

    def connect(self):
        servers = [RTCIceServer(**server) for server in self.ice_servers]
        self.pc = pc = RTCPeerConnection(RTCConfiguration(iceServers=servers))
        emit("connection", state="new")

        @pc.on("connectionstatechange")
        def on_state():
            if pc is self.pc:
                emit("connection", state=pc.connectionState)

        @pc.on("track")
        def on_track(track):
            asyncio.ensure_future(self.decode(track))

        @pc.on("datachannel")
        def on_channel(channel):
            self.listen(channel, self.role == "mac")

    async def decode(self, track):
        count = 0
        try:
            while True:
                await track.recv()
                count += 1
                emit("decoded", count=count)
        except Exception as error:
            emit("track-ended", message=repr(error))

    async def talk(self, channel):
        while channel.readyState == "open":
            self.said += 1
            channel.send(json.dumps({"t": "text", "id": self.said, "text": f"text {self.said}"}))
            emit("said", id=self.said)
            await asyncio.sleep(SAY_EVERY)

    def listen(self, channel, talks):
        """Serves a channel; `talks` if the app sends its own messages over it."""
        self.channel = channel

        @channel.on("open")
        def on_open():
            emit("channel", label=channel.label)
            if talks and self.talks:
                channel.talking = asyncio.create_task(self.talk(channel))

        if channel.readyState == "open":
            on_open()

        @channel.on("close")
        def on_close():
            emit("channel-closed", label=channel.label)

        @channel.on("message")
        def on_message(text):
            self.heard = time.monotonic()
            message = json.loads(text)
            if message["t"] == "ping":
                channel.send(json.dumps({"t": "pong", "id": message["id"], "ts": message["ts"]}))
            elif message["t"] == "text":
                channel.send(json.dumps({"t": "ack", "id": message["id"]}))
            if message["t"] == "keyframe":
                emit("announced", seq=message["seq"])
            else:
                emit("heard", what=message["t"], id=message.get("id"))

    async def on_message(self, message):
        if message["t"] == "offer":
            await asyncio.sleep(self.answer_after)
            # Offers are applied to the existing connection unless it has ended; without --renew, also with another fingerprint.
            if self.pc is not None and (self.pc.connectionState in OVER or (self.renew and self.is_other(message["sdp"]))):
                self.drop_connection()
            if self.pc is None:
                self.connect()
            await self.pc.setRemoteDescription(RTCSessionDescription(message["sdp"], "offer"))
            await self.pc.setLocalDescription(await self.pc.createAnswer())
            await self.send("answer", sdp=self.pc.localDescription.sdp)
            await self.add_early()
        elif message["t"] == "answer":
            await self.pc.setRemoteDescription(RTCSessionDescription(message["sdp"], "answer"))
            await self.add_early()
        elif message["t"] == "state":
            # The first offer of the phone may still be unanswered.
            if self.role == "phone" and message["connection"] == "new" and self.pc.remoteDescription:
                await self.offer()
        elif message["t"] == "peer-joined":
            if self.role == "phone" and self.pc is not None and self.pc.remoteDescription and not self.is_alive():
                await self.offer()
        elif message["t"] == "ice":
            if self.pc is not None and self.pc.remoteDescription:
                await self.add(message["candidate"])
            else:
                self.early.append(message["candidate"])

    def is_other(self, sdp):
        """Whether an offer has another fingerprint than this connection."""
        known = self.pc.remoteDescription
        return known is not None and fingerprints(known.sdp) != fingerprints(sdp)

    def is_alive(self):
        return self.pc.connectionState not in OVER and time.monotonic() - self.heard < SILENT_AFTER

    async def add_early(self):
        while self.early:
            await self.add(self.early.pop(0))

    async def add(self, init):
        candidate = None
        if init is not None and init["candidate"]:
            candidate = candidate_from_sdp(init["candidate"].removeprefix("candidate:"))
            candidate.sdpMid, candidate.sdpMLineIndex = init.get("sdpMid"), init.get("sdpMLineIndex")
        await self.pc.addIceCandidate(candidate)

    async def offer(self):
        if self.pc is not None:
            self.drop_connection()
            self.early.clear()
        self.connect()
        self.listen(self.pc.createDataChannel("control", ordered=False, maxPacketLifeTime=100), True)
        pc = self.pc
        transceiver = pc.addTransceiver(Picture(self, lambda: pc.connectionState == "connected"), direction="sendonly")
        codecs = RTCRtpSender.getCapabilities("video").codecs
        transceiver.setCodecPreferences([codec for codec in codecs if codec.mimeType == "video/H264"])
        await self.pc.setLocalDescription(await self.pc.createOffer())
        await self.send("offer", sdp=self.pc.localDescription.sdp)

    async def attack(self, command, argument):
        """Executes `sctp HEX [COUNT]` (chunks in one packet), `forward-tsn COUNT` or `close-channel`."""
        if command == "close-channel":
            self.channel.close()
        elif command == "forward-tsn":
            last = self.pc.sctp._local_tsn - 1
            await self.pc.sctp._send_chunk(Chunks(forward_tsns(last, int(argument[0]))))
        else:
            count = int(argument[1]) if len(argument) > 1 else 1
            await self.pc.sctp._send_chunk(Chunks(bytes.fromhex(argument[0]) * count))
        emit("attacked", what=command)

    async def run(self):
        await self.join()
        if self.role == "phone":
            await self.offer()
        lines = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
        while line := await lines.readline():
            command, *argument = line.decode().split()
            if command == "drop-signaling":
                self.dropping = asyncio.create_task(self.drop(int(argument[0])))
            elif command in ("sctp", "forward-tsn", "close-channel"):
                try:
                    await self.attack(command, argument)
                except Exception as error:  # As above.
                    emit("error", message=f"{command}: {error!r}")
            elif command == "stop":
                self.unit = None
            elif command == "restart":
                emit("error", message="aiortc does not restart ICE")
            elif command == "quit":
                break
        self.leaving = True
        await self.send("bye", reason="done")
        await self.socket.close()
        if self.pc is not None:
            await self.pc.close()


parser = argparse.ArgumentParser()
parser.add_argument("--api")
parser.add_argument("--role")
parser.add_argument("--answer-after", type=int, default=0)
parser.add_argument("--unit")
parser.add_argument("--renew", action="store_true")
parser.add_argument("--relay", action="store_true")
parser.add_argument("--talk", action="store_true")
options = parser.parse_args()
# aioice 0.13 omits loopback (ice.py:98), but these tests must use only loopback. Without a local address it has only
# relayed candidates.
aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: [] if options.relay else ["127.0.0.1"]
try:
    asyncio.run(App(options).run())
except KeyboardInterrupt:
    os._exit(130)
