use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);

/// Fates of `count` packets of 1000 bytes, sent at intervals of `pause`.
fn fates(link: LinkSettings, seed: u64, count: u32, pause: Duration) -> Vec<(Duration, Fate)> {
    let mut queue = LinkQueue::new(link, seed, "up");
    (0..count).map(|n| (n * pause, queue.send(n * pause, 1000))).collect()
}

fn lost(fates: &[(Duration, Fate)]) -> usize {
    fates.iter().filter(|(_, fate)| *fate == Fate::Lost).count()
}

#[test]
fn a_clear_link_delivers_everything_immediately() {
    for (sent, fate) in fates(LinkSettings::default(), 1, 1000, MS) {
        assert_eq!(fate, Fate::Due(sent));
    }
}

#[test]
fn the_loss_rate_is_kept() {
    // Five standard deviations of a binomial distribution.
    for (loss, seed) in [(0.05, 1), (0.05, 2), (0.02, 3), (0.5, 4), (0.0, 5), (1.0, 6)] {
        let count = 10_000;
        let lost =
            lost(&fates(LinkSettings { loss, ..LinkSettings::default() }, seed, count, MS)) as f64;
        let spread = 5.0 * (f64::from(count) * loss * (1.0 - loss)).sqrt();
        let expected = f64::from(count) * loss;
        assert!((lost - expected).abs() <= spread, "{loss}: {lost} of {count} lost");
    }
}

#[test]
fn bursts_have_the_given_length_and_keep_the_loss_rate() {
    for (loss, loss_burst, seed) in [(0.05, 10, 1), (0.1, 4, 2), (0.5, 3, 3)] {
        let count = 100_000;
        let fates =
            fates(LinkSettings { loss, loss_burst, ..LinkSettings::default() }, seed, count, MS);
        let share = lost(&fates) as f64 / f64::from(count);
        assert!((share - loss).abs() < 0.1 * loss, "{loss} in bursts of {loss_burst}: {share}");
        let rows = fates.chunk_by(|a, b| (a.1 == Fate::Lost) == (b.1 == Fate::Lost));
        let lost_rows: Vec<usize> =
            rows.filter(|row| row[0].1 == Fate::Lost).map(<[_]>::len).collect();
        // Bursts may be adjacent; the last one may be truncated.
        let (_, whole) = lost_rows.split_last().unwrap();
        assert!(whole.iter().all(|row| row % loss_burst as usize == 0), "{loss_burst}");
    }
}

#[test]
fn a_link_can_change_while_in_use() {
    let mut queue = LinkQueue::new(LinkSettings { delay: MS, ..LinkSettings::default() }, 1, "up");
    assert_eq!(queue.send(Duration::ZERO, 100), Fate::Due(MS));
    queue.set_link(LinkSettings { loss: 1.0, ..LinkSettings::default() });
    assert_eq!(queue.send(MS, 100), Fate::Lost);
    queue.set_link(LinkSettings { delay: 3 * MS, ..LinkSettings::default() });
    assert_eq!(queue.send(2 * MS, 100), Fate::Due(5 * MS));
}

#[test]
fn the_queue_size_can_be_set() {
    let queue = Some(Queue::Bytes(32_768));
    let link = LinkSettings { rate: Some(1_000_000), queue, ..LinkSettings::default() };
    let mut queue = LinkQueue::new(link, 1, "up");
    let fates = (0..40).map(|_| queue.send(Duration::ZERO, 1222)).collect::<Vec<_>>();
    assert_eq!(fates.iter().filter(|fate| **fate != Fate::Overflow).count(), 32_768 / 1250);
}

#[test]
fn losses_are_independent() {
    // After a lost packet the next one is as likely to be lost as any.
    let fates = fates(LinkSettings { loss: 0.2, ..LinkSettings::default() }, 9, 50_000, MS);
    let runs = fates.windows(2).filter(|pair| pair[0].1 == Fate::Lost);
    let both = runs.clone().filter(|pair| pair[1].1 == Fate::Lost).count() as f64;
    let share = both / runs.count() as f64;
    assert!((share - 0.2).abs() < 0.02, "{share}");
}

#[test]
fn the_directions_of_one_seed_lose_different_packets() {
    let link = LinkSettings { loss: 0.5, ..LinkSettings::default() };
    let row = |direction| {
        let mut queue = LinkQueue::new(link, 7, direction);
        (0..64).map(|_| queue.send(Duration::ZERO, 100)).collect::<Vec<_>>()
    };
    assert_ne!(row("up"), row("down"));
}

#[test]
fn jitter_is_uniform_and_reorders_packets() {
    let link = LinkSettings { delay: 25 * MS, jitter: 10 * MS, ..LinkSettings::default() };
    let fates = fates(link, 3, 10_000, MS);
    let extra: Vec<f64> = fates
        .iter()
        .map(|(sent, fate)| match fate {
            Fate::Due(due) => (due.as_secs_f64() - sent.as_secs_f64()) * 1e3 - 25.0,
            other => panic!("{other:?}"),
        })
        .collect();
    let mean = extra.iter().sum::<f64>() / extra.len() as f64;
    assert!((mean - 5.0).abs() < 0.2, "{mean}");
    assert!(extra.iter().all(|ms| (-1e-6..10.0001).contains(ms)));
    for tenth in 0..10 {
        let range = f64::from(tenth)..f64::from(tenth + 1);
        let share = extra.iter().filter(|ms| range.contains(ms)).count();
        assert!((850..1150).contains(&share), "{tenth}: {share}");
    }
    let dues = fates.windows(2).filter(|pair| match (pair[0].1, pair[1].1) {
        (Fate::Due(first), Fate::Due(second)) => second < first,
        _ => false,
    });
    assert!(dues.count() > 1000, "jitter of ten times the interval reorders often");
}

#[test]
fn the_rate_is_enforced_and_counts_headers() {
    // 972 + 28 bytes are 8 ms of 1 Mbit/s.
    let mut queue = LinkQueue::new(
        LinkSettings { rate: Some(1_000_000), delay: 5 * MS, ..LinkSettings::default() },
        1,
        "up",
    );
    assert_eq!(queue.send(Duration::ZERO, 972), Fate::Due(13 * MS));
    assert_eq!(queue.send(Duration::ZERO, 972), Fate::Due(21 * MS));
    // Idle time does not accumulate.
    assert_eq!(queue.send(1000 * MS, 972), Fate::Due(1013 * MS));
}

#[test]
fn a_full_queue_drops_the_newest() {
    // 100 ms of 40 Mbit/s are 500 kB: five hundred packets of 1000 bytes.
    let link = LinkSettings { rate: Some(40_000_000), ..LinkSettings::default() };
    let mut queue = LinkQueue::new(link, 1, "up");
    assert_eq!(queue.capacity(), 500_000);
    let fates: Vec<_> = (0..650).map(|_| queue.send(Duration::ZERO, 972)).collect();
    let passed = fates.iter().take_while(|fate| matches!(fate, Fate::Due(_))).count();
    assert_eq!(passed, 500);
    assert!(fates[passed..].iter().all(|fate| *fate == Fate::Overflow));
    // When a packet leaves, one more fits.
    let later = Duration::from_micros(200);
    assert!(matches!(queue.send(later, 972), Fate::Due(_)));
    assert_eq!(queue.send(later, 972), Fate::Overflow);
    // The queue of a slow link accepts the largest datagram, but no other after it.
    let mut slow =
        LinkQueue::new(LinkSettings { rate: Some(64_000), ..LinkSettings::default() }, 1, "up");
    assert!(matches!(slow.send(Duration::ZERO, 65_507), Fate::Due(_)));
    assert_eq!(slow.send(Duration::ZERO, 65_507), Fate::Overflow);
}

#[test]
fn a_stream_blocks_instead_of_losing() {
    let link = LinkSettings {
        loss: 1.0,
        delay: 20 * MS,
        rate: Some(8_000_000),
        ..LinkSettings::default()
    };
    let mut queue = LinkQueue::new(link, 1, "up");
    // Sent in 1 ms, 20 ms in transit, and one round trip of 40 ms for the retransmission.
    assert_eq!(queue.send_stream(Duration::ZERO, 972), 61 * MS);
    // With more bytes than the queue holds, the writer blocks.
    assert!(queue.send_stream(Duration::ZERO, 1_000_000) > Duration::from_secs(1));
    let mut clear = LinkQueue::new(LinkSettings { loss: 0.0, rate: None, ..link }, 1, "up");
    assert_eq!(clear.send_stream(7 * MS, 60_000), 27 * MS);
}

prop_compose! {
    fn links()(
        loss in 0.0..0.5_f64,
        loss_burst in 0..20_u32,
        delay in 0..200_u64,
        jitter in 0..50_u64,
        rate in prop::option::of(10_000..100_000_000_u64),
    ) -> LinkSettings {
        let (delay, jitter) = (Duration::from_millis(delay), Duration::from_millis(jitter));
        LinkSettings { loss, loss_burst, delay, jitter, rate, queue: None }
    }
}

proptest! {
    #[test]
    fn the_same_seed_and_packets_have_the_same_fate(
        link in links(),
        seed: u64,
        packets in prop::collection::vec((0..20_000_u64, 0..1500_usize), 1..200),
    ) {
        let run = |link: LinkSettings| {
            let mut queue = LinkQueue::new(link, seed, "down");
            let mut now = Duration::ZERO;
            let send = |&(pause, bytes): &(u64, usize)| {
                now += Duration::from_micros(pause);
                (now, queue.send(now, bytes))
            };
            packets.iter().map(send).collect::<Vec<_>>()
        };
        let first = run(link);
        prop_assert_eq!(&first, &run(link));
        for (sent, fate) in &first {
            if let Fate::Due(due) = fate {
                prop_assert!(*due >= *sent + link.delay);
            }
        }
        // The losses stay the same when the delay grows.
        let longer = run(LinkSettings { delay: link.delay + MS, ..link });
        let lost = |fates: &[(Duration, Fate)]| {
            fates.iter().map(|(_, fate)| *fate == Fate::Lost).collect::<Vec<_>>()
        };
        prop_assert_eq!(lost(&first), lost(&longer));
    }

    #[test]
    fn without_jitter_packets_stay_in_order(link in links(), seed: u64, pauses in prop::collection::vec(0..5_000_u64, 1..200)) {
        let mut queue = LinkQueue::new(LinkSettings { jitter: Duration::ZERO, ..link }, seed, "up");
        let (mut now, mut last) = (Duration::ZERO, Duration::ZERO);
        for pause in pauses {
            now += Duration::from_micros(pause);
            if let Fate::Due(due) = queue.send(now, 1200) {
                prop_assert!(due >= last);
                last = due;
            }
        }
    }
}
