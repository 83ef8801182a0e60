//! The moving test pattern: a textured background, moving color bars, and the frame number and the
//! wall clock in large digits. A frozen clock or a repeated number shows immediately what is stuck.

use std::time::SystemTime;

use super::{Captured, Source, SourceError};
use crate::media::{
    colour::Colour,
    frame::{Frame, FrameError},
};

/// Glyphs of 5x7 pixels: digits, colon, period, number sign; five bits per row, left to right.
const GLYPHS: [(char, [u8; 7]); 13] = [
    ('0', [0b01110, 0b10001, 0b10011, 0b10101, 0b11001, 0b10001, 0b01110]),
    ('1', [0b00100, 0b01100, 0b00100, 0b00100, 0b00100, 0b00100, 0b01110]),
    ('2', [0b01110, 0b10001, 0b00001, 0b00110, 0b01000, 0b10000, 0b11111]),
    ('3', [0b11111, 0b00010, 0b00100, 0b00010, 0b00001, 0b10001, 0b01110]),
    ('4', [0b00010, 0b00110, 0b01010, 0b10010, 0b11111, 0b00010, 0b00010]),
    ('5', [0b11111, 0b10000, 0b11110, 0b00001, 0b00001, 0b10001, 0b01110]),
    ('6', [0b00110, 0b01000, 0b10000, 0b11110, 0b10001, 0b10001, 0b01110]),
    ('7', [0b11111, 0b00001, 0b00010, 0b00100, 0b01000, 0b01000, 0b01000]),
    ('8', [0b01110, 0b10001, 0b10001, 0b01110, 0b10001, 0b10001, 0b01110]),
    ('9', [0b01110, 0b10001, 0b10001, 0b01111, 0b00001, 0b00010, 0b01100]),
    (':', [0b00000, 0b00100, 0b00100, 0b00000, 0b00100, 0b00100, 0b00000]),
    ('.', [0b00000, 0b00000, 0b00000, 0b00000, 0b00000, 0b01100, 0b01100]),
    ('#', [0b01010, 0b01010, 0b11111, 0b01010, 0b11111, 0b01010, 0b01010]),
];

/// The eight colors of 75 % color bars as Y, U, V.
const BARS: [(u8, u8, u8); 8] = [
    (180, 128, 128),
    (162, 44, 142),
    (131, 156, 44),
    (112, 72, 58),
    (84, 184, 198),
    (65, 100, 212),
    (35, 212, 114),
    (16, 128, 128),
];

/// Luma of the digits and of their background.
const INK: (u8, u8) = (235, 16);

/// A moving pattern that advances by one step per call.
#[derive(Debug)]
pub struct PatternSource {
    background: Frame,
    number: u64,
}

impl PatternSource {
    /// Creates a pattern of this size; odd sides lose a pixel.
    ///
    /// # Errors
    /// A side is less than 16 or more than 3840 pixels.
    pub fn new(width: u32, height: u32) -> Result<Self, SourceError> {
        let wrong = |cause| SourceError::Size { width, height, cause };
        if width.min(height) < 16 || width.max(height) > 3840 {
            return Err(wrong(FrameError::Convert {
                from: "the pattern".to_owned(),
                to: format!("{width}x{height}"),
                cause: "sides must be 16 to 3840 pixels".to_owned(),
            }));
        }
        Ok(Self { background: background(width & !1, height & !1), number: 0 })
    }

    /// Renders the picture with this number and time.
    #[must_use]
    pub fn render(&self, number: u64, captured_at: SystemTime) -> Frame {
        let mut frame = Frame { captured_at, ..self.background.clone() };
        draw_bars(&mut frame, number);
        let scale = (frame.width / 160).min(frame.height / 40).max(1);
        let margin = 4 * scale;
        draw_text(&mut frame, &format!("#{number:06}"), (margin, margin), scale);
        let below = margin + 10 * scale;
        draw_text(&mut frame, &clock(captured_at), (margin, below), scale);
        frame
    }
}

impl Source for PatternSource {
    fn describe(&self) -> String {
        format!("test pattern at {}x{}", self.background.width, self.background.height)
    }

    fn next(&mut self) -> Result<Option<Captured>, SourceError> {
        self.number += 1;
        Ok(Some(Captured::Frame(self.render(self.number, SystemTime::now()))))
    }
}

/// Local time of day as `HH:MM:SS.mmm`.
fn clock(at: SystemTime) -> String {
    let zone = jiff::tz::TimeZone::system();
    jiff::Timestamp::try_from(at)
        .map(|time| time.to_zoned(zone).strftime("%H:%M:%S.%3f").to_string())
        .unwrap_or_default()
}

/// Smooth gradients with grain, about as hard to encode as a photo.
fn background(width: u32, height: u32) -> Frame {
    let (w, h) = (width as usize, height as usize);
    let wave = |at: usize, period: f32| (at as f32 * std::f32::consts::TAU / period).sin();
    let columns: Vec<f32> = (0..w).map(|x| 30.0 * wave(x, 317.0) + 12.0 * wave(x, 41.0)).collect();
    let mut seed = 0x2545_f491_u32;
    let mut y = Vec::with_capacity(w * h);
    for row in 0..h {
        let slope = 110.0 + 30.0 * wave(row, 233.0) + 12.0 * wave(row, 29.0);
        for column in &columns {
            // xorshift: the same grain in every run.
            seed ^= seed << 13;
            seed ^= seed >> 17;
            seed ^= seed << 5;
            let grain = (seed >> 24) as f32 / 256.0 - 0.5;
            y.push((slope + column + 14.0 * grain).clamp(16.0, 235.0) as u8);
        }
    }
    let chroma = |across: bool| {
        (0..h / 2)
            .flat_map(|row| (0..w / 2).map(move |column| (row, column)))
            .map(|(row, column)| {
                let (at, of) = if across { (column, w / 2) } else { (row, h / 2) };
                (96 + 64 * at / of) as u8
            })
            .collect()
    };
    Frame {
        width,
        height,
        y,
        u: chroma(true),
        v: chroma(false),
        colour: Colour::default(),
        captured_at: SystemTime::UNIX_EPOCH,
    }
}

/// Draws color bars in the lower third that move with every number, and a block that moves above
/// them.
fn draw_bars(frame: &mut Frame, number: u64) {
    let (width, height) = (frame.width, frame.height);
    let bar = (width / 8).max(2);
    let top = height * 2 / 3;
    let shift = (number % u64::from(width)) as u32 * 8 % width;
    for (i, colour) in (0u32..).zip(BARS) {
        let from = (i * bar + shift) % width;
        let first = bar.min(width - from);
        fill(frame, (from, top), (first, height / 6), colour);
        fill(frame, (0, top), (bar - first, height / 6), colour);
    }
    let side = height / 8;
    let path = (number % 1_000_000) as u32;
    let at = (path * 24 % (width - side).max(1), height / 3 + path * 10 % (height / 4).max(1));
    fill(frame, at, (side, side), BARS[(number % 7) as usize]);
}

/// Fills a rectangle with one color, clipped to the frame.
fn fill(frame: &mut Frame, (x, y): (u32, u32), size: (u32, u32), colour: (u8, u8, u8)) {
    let (x0, y0) = ((x & !1) as usize, (y & !1) as usize);
    let x1 = ((x + size.0).min(frame.width) & !1) as usize;
    let y1 = ((y + size.1).min(frame.height) & !1) as usize;
    if x0 >= x1 {
        return;
    }
    let w = frame.width as usize;
    for row in y0..y1 {
        frame.y[row * w + x0..row * w + x1].fill(colour.0);
    }
    for row in y0 / 2..y1 / 2 {
        frame.u[row * w / 2 + x0 / 2..row * w / 2 + x1 / 2].fill(colour.1);
        frame.v[row * w / 2 + x0 / 2..row * w / 2 + x1 / 2].fill(colour.2);
    }
}

/// Draws digits on a black background.
fn draw_text(frame: &mut Frame, text: &str, (x, y): (u32, u32), scale: u32) {
    let ground = (6 * scale * text.len() as u32 + 2 * scale, 9 * scale);
    fill(frame, (x.saturating_sub(scale), y.saturating_sub(scale)), ground, (INK.1, 128, 128));
    let w = frame.width;
    for (i, c) in (0u32..).zip(text.chars()) {
        let Some((_, rows)) = GLYPHS.iter().find(|(glyph, _)| *glyph == c) else { continue };
        for (dy, dx) in (0..7 * scale).flat_map(|dy| (0..5 * scale).map(move |dx| (dy, dx))) {
            let on = rows[(dy / scale) as usize] >> (4 - dx / scale) & 1 == 1;
            let at = (x + i * 6 * scale + dx, y + dy);
            if on && at.0 < w && at.1 < frame.height {
                frame.y[(at.1 * w + at.0) as usize] = INK.0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_time_and_bars_change_between_pictures() {
        let pattern = PatternSource::new(1280, 720).unwrap();
        let at = SystemTime::UNIX_EPOCH;
        let first = pattern.render(1, at);
        assert_eq!(first, pattern.render(1, at));
        let rows = |frame: &Frame, from: usize, to: usize| frame.y[from * 1280..to * 1280].to_vec();
        let second = pattern.render(2, at);
        assert_ne!(rows(&first, 32, 88), rows(&second, 32, 88), "the number");
        assert_eq!(rows(&first, 112, 168), rows(&second, 112, 168), "the same time");
        assert_ne!(rows(&first, 480, 600), rows(&second, 480, 600), "the bars");
        let later = pattern.render(1, at + std::time::Duration::from_millis(1));
        assert_ne!(rows(&first, 112, 168), rows(&later, 112, 168), "the time");
    }

    #[test]
    fn every_size_can_be_drawn() {
        for (width, height) in [(16, 16), (17, 31), (3840, 16), (16, 2000), (640, 360)] {
            let pattern = PatternSource::new(width, height).unwrap();
            for number in [0, 1, 77, 1_000_003, u64::MAX] {
                let frame = pattern.render(number, SystemTime::UNIX_EPOCH);
                assert_eq!(frame.y.len(), ((width & !1) * (height & !1)) as usize);
            }
        }
        assert!(matches!(PatternSource::new(15, 100), Err(SourceError::Size { .. })));
    }
}
