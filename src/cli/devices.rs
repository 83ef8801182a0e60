//! `devices`: lists cameras and their formats.

use std::io::Write;

use serde_json::json;

use super::failure::Failure;
use crate::{
    media::source::{Device, list_devices},
    types::Stage,
};

/// List cameras and their formats.
#[derive(Debug, Clone, clap::Args)]
pub struct DevicesArgs {}

/// Prints a table, or with `json` one object a line; no camera is no failure.
///
/// # Errors
/// The system's list of cameras cannot be read.
pub fn run(_args: &DevicesArgs, json: bool) -> Result<(), Failure> {
    let devices = list_devices()
        .map_err(|error| Failure::new(Stage::Source, error.to_string(), error.remedy()))?;
    if devices.is_empty() {
        eprintln!(
            "no camera found; send something else with `--source pattern`, a picture or a directory"
        );
    }
    let form = |device| if json { format!("{}\n", line(device)) } else { table(device) };
    let text: String = devices.iter().map(form).collect();
    // Whoever reads may have gone, as `head` does.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

fn line(device: &Device) -> serde_json::Value {
    let formats: Vec<_> = device
        .formats
        .iter()
        .map(|f| json!({"fourcc": f.fourcc, "width": f.width, "height": f.height, "fps": f.fps}))
        .collect();
    json!({"index": device.index, "name": device.name, "path": device.path, "formats": formats})
}

fn table(device: &Device) -> String {
    let mut text = format!("camera:{}  {}  {}\n", device.index, device.name, device.path);
    if device.formats.is_empty() {
        text.push_str("    in use by another program, or not permitted\n");
    }
    let lines = device.formats.iter().map(|f| {
        let size = format!("{}x{}", f.width, f.height);
        format!("    {size:<10} {:<7} {} fps\n", f.fourcc, f.fps)
    });
    text.extend(lines);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::source::CameraFormat;

    #[test]
    fn one_device_in_both_forms() {
        let format = CameraFormat { width: 1280, height: 720, fourcc: "YUYV".into(), fps: 30 };
        let device = Device {
            index: 2,
            name: "Cam".into(),
            path: "/dev/video2".into(),
            formats: vec![format],
        };
        assert_eq!(table(&device), "camera:2  Cam  /dev/video2\n    1280x720   YUYV    30 fps\n");
        assert_eq!(
            line(&device).to_string(),
            r#"{"formats":[{"fourcc":"YUYV","fps":30,"height":720,"width":1280}],"index":2,"name":"Cam","path":"/dev/video2"}"#
        );
    }
}
