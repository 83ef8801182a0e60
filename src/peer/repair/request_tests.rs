use super::*;

const MS: Duration = Duration::from_millis(1);

fn requests(round_trip: Duration) -> Requests {
    let mut known = RoundTrip::default();
    known.sample(round_trip);
    Requests::new(known)
}

fn arrive(requests: &mut Requests, sequences: impl IntoIterator<Item = u16>, now: Instant) {
    for sequence in sequences {
        requests.arrived(sequence, false, now);
    }
}

/// A stream that starts with its first packet.
fn started(round_trip: Duration, first: u16, now: Instant) -> Requests {
    let mut requests = requests(round_trip);
    requests.arrived(first, true, now);
    requests
}

#[test]
fn a_gap_is_requested_immediately_and_again_after_a_round_trip() {
    let now = Instant::now();
    let mut requests = started(100 * MS, 65_534, now);
    arrive(&mut requests, [65_535, 3], now);
    assert_eq!(requests.take(now), [] as [u16; 0], "they may merely be late");
    assert_eq!(requests.due(), Some(now + 2 * MS));
    assert_eq!(requests.take(now + 2 * MS), [0, 1, 2]);
    // The request may have been lost: it is sent twice, and three times under heavy loss.
    for again in [12, 22] {
        assert_eq!(requests.due(), Some(now + again * MS));
        assert_eq!(requests.take(now + again * MS), [0, 1, 2]);
    }
    arrive(&mut requests, [1], now + 105 * MS);
    let second = requests.due().unwrap();
    assert!((now + 110 * MS..now + 200 * MS).contains(&second));
    assert_eq!(requests.take(second), [0, 2]);
    arrive(&mut requests, [0, 2], second + 100 * MS);
    assert_eq!(requests.due(), None);
}

#[test]
fn without_reordering_a_gap_is_requested_one_packet_later() {
    let now = Instant::now();
    let mut requests = started(100 * MS, 0, now);
    arrive(&mut requests, [2], now);
    let next = now + MS / 5;
    arrive(&mut requests, [3], next);
    assert_eq!(requests.due(), Some(next));
    assert_eq!(requests.take(next), [1]);
    // After a packet that was 20 ms late, the next one proves nothing.
    arrive(&mut requests, [1, 5], next);
    arrive(&mut requests, [4], next + 20 * MS);
    arrive(&mut requests, [7, 8], next + 20 * MS);
    assert!(requests.due() > Some(next + 30 * MS), "{:?}", requests.due());
}

#[test]
fn repeats_join_other_requests() {
    let now = Instant::now();
    let mut requests = started(100 * MS, 0, now);
    arrive(&mut requests, (1..40).chain([41]), now);
    assert_eq!(requests.take(now + 2 * MS), [40]);
    arrive(&mut requests, (42..60).chain([61]), now + 5 * MS);
    assert_eq!(requests.take(now + 7 * MS), [40, 60]);
    assert_eq!(requests.take(now + 17 * MS), [60], "the first one was sent twice");
    assert_eq!(requests.due(), Some(now + 152 * MS));
    // On a short path the answer arrives before the request could be repeated.
    let mut requests = started(10 * MS, 0, now);
    arrive(&mut requests, [2], now);
    assert_eq!(requests.take(now + 2 * MS), [1]);
    assert_eq!(requests.due(), Some(now + 22 * MS));
}

#[test]
fn a_peer_that_answers_no_requests_does_not_repair() {
    let mut now = Instant::now();
    let mut requests = started(50 * MS, 0, now);
    arrive(&mut requests, [2], now);
    for _ in 0..20 {
        let due = requests.due().unwrap();
        now = due;
        requests.take(now);
    }
    assert!(requests.is_ignored(now + 200 * MS));
    arrive(&mut requests, [1], now + 300 * MS);
    arrive(&mut requests, [4], now + 300 * MS);
    for _ in 0..20 {
        now = requests.due().unwrap();
        requests.take(now);
    }
    assert!(!requests.is_ignored(now + 200 * MS), "it has answered one");
}

#[test]
fn late_packets_are_not_requested() {
    let now = Instant::now();
    let mut requests = started(100 * MS, 10, now);
    arrive(&mut requests, [12, 11, 11, 14, 13, 15], now);
    assert_eq!(requests.due(), None);
    // After some packets that are 20 ms late, requests soon wait that long.
    let mut now = now;
    let mut requested = 0;
    for sequence in (16..400).step_by(2) {
        requests.arrived(sequence + 1, false, now);
        requested += requests.take(now + 10 * MS).len();
        requests.arrived(sequence, false, now + 20 * MS);
        now += 30 * MS;
    }
    assert!(requested <= 2, "{requested}");
}

#[test]
fn a_stream_joined_late_gets_requests_for_its_beginning() {
    let now = Instant::now();
    let mut requests = requests(20 * MS);
    requests.arrived(300, false, now);
    let requested = requests.take(now + 2 * MS);
    assert_eq!((requested.len(), requested[0], *requested.last().unwrap()), (128, 172, 299));
    // The picture is even larger.
    arrive(&mut requests, requested, now + 25 * MS);
    let before = requests.take(requests.due().unwrap());
    assert_eq!((before[0], *before.last().unwrap()), (44, 171));
    for sequence in 100..172 {
        requests.arrived(sequence, sequence == 100, now + 60 * MS);
    }
    assert_eq!(requests.due(), None, "nothing precedes the beginning");
}

#[test]
fn a_gap_farther_back_than_requested_is_noticed() {
    let now = Instant::now();
    for begins in [false, true] {
        let mut requests = requests(20 * MS);
        // Packet 300 overtook the rest of the picture, of which 171 is lost.
        requests.arrived(300, false, now);
        arrive(&mut requests, 172..300, now);
        requests.arrived(168, begins, now);
        arrive(&mut requests, [169, 170], now);
        let requested = requests.take(now + 2 * MS);
        let requested: Vec<u16> =
            requested.into_iter().filter(|sequence| *sequence > 168).collect();
        assert_eq!(requested, [171]);
    }
}

#[test]
fn possibly_nonexistent_packets_are_not_requested_for_long() {
    let now = Instant::now();
    let mut requests = requests(20 * MS);
    requests.arrived(3, false, now);
    let mut last = [now; 2];
    while let Some(due) = requests.due() {
        for sequence in requests.take(due) {
            last[usize::from(sequence == 2)] = due;
        }
    }
    assert!(last[0] < now + Duration::from_secs(4), "{:?}", last[0] - now);
    assert!(
        last[1] > now + Duration::from_secs(9),
        "the last arrival cannot have been the first packet"
    );
}

#[test]
fn a_packet_that_is_too_old_is_no_longer_requested() {
    let now = Instant::now();
    let mut requests = started(100 * MS, 1, now);
    arrive(&mut requests, [3], now);
    let mut times = Vec::new();
    while let Some(due) = requests.due() {
        if !requests.take(due).is_empty() {
            times.push(due - now);
        }
    }
    let last = *times.last().unwrap();
    assert!((9 * WORTH / 10..WORTH).contains(&last), "{last:?}");
    assert!(times.len() < 80, "{}", times.len());
}

#[test]
fn a_restart_is_not_a_gap() {
    let now = Instant::now();
    let mut requests = started(100 * MS, 1, now);
    arrive(&mut requests, [3], now);
    requests.arrived(20_000, true, now);
    assert_eq!(requests.due(), None);
    arrive(&mut requests, [20_002], now);
    assert_eq!(requests.take(now + 2 * MS), [20_001]);
}

#[test]
fn missing_packets_are_bounded() {
    let now = Instant::now();
    let mut requests = started(100 * MS, 0, now);
    for sequence in (0..=u16::MAX).step_by(2) {
        requests.arrived(sequence, true, now);
    }
    assert!(requests.missing.len() <= usize::from(WINDOW), "{}", requests.missing.len());
}

#[test]
fn a_late_packet_is_not_a_fast_answer() {
    let now = Instant::now();
    let mut requests = Requests::new(RoundTrip::default());
    requests.arrived(1, true, now);
    arrive(&mut requests, [3], now);
    assert_eq!(requests.take(now + 2 * MS), [2]);
    arrive(&mut requests, [2, 5], now + 3 * MS);
    let requested = requests.due().unwrap();
    assert_eq!(requests.take(requested), [4]);
    requests.take(requested + 10 * MS);
    requests.take(requested + 20 * MS);
    let again = requests.due().unwrap() - requested;
    assert!(again > 70 * MS, "{again:?} is shorter than any observed round trip");
}

#[test]
fn a_timeout_that_is_too_short_grows() {
    let mut now = Instant::now();
    let mut requests = started(50 * MS, 0, now);
    // The true round trip is 300 ms.
    let mut requested_for_one = 0;
    for gap in 1..30_u16 {
        requests.arrived(gap * 2, false, now);
        requested_for_one = 0;
        let answer = loop {
            let due = requests.due().unwrap();
            if requested_for_one > 0 && due > now + 302 * MS {
                break now + 302 * MS;
            }
            requested_for_one += requests.take(due).len();
        };
        requests.arrived(gap * 2 - 1, false, answer);
        now = answer + 1000 * MS;
    }
    assert_eq!(requested_for_one, 3, "one request, sent three times at a loss of one half");
}

#[test]
fn sequence_numbers_are_packed_in_groups_of_17() {
    let pairs = pack(&[65_535, 0, 15, 16, 40]);
    let unpacked: Vec<u16> = pairs.iter().flat_map(NackPair::packet_list).collect();
    assert_eq!(unpacked, [65_535, 0, 15, 16, 40]);
    assert_eq!(pairs.len(), 3);
    let all: Vec<u16> = (0..WINDOW).collect();
    assert_eq!(pack(&all).len(), all.len().div_ceil(17));
}
