//! `devices`: lists cameras and their formats.

use serde_json::{Value, json};

use super::{failure::Failure, output::Output};
use crate::{
    media::source::{CameraFormat, Device, list_devices},
    text::printable,
    types::Stage,
};

/// List cameras and their formats.
#[derive(Debug, Clone, clap::Args)]
pub struct DevicesArgs {}

/// Prints a table, or with `--json` one object per line. Finding no camera is not a failure.
///
/// # Errors
/// The list of cameras cannot be read, or stdout is not writable.
pub fn run(_args: &DevicesArgs, output: Output) -> Result<(), Failure> {
    let devices = list_devices()
        .map_err(|error| Failure::new(Stage::Source, error.to_string(), error.remedy()))?;
    if devices.is_empty() {
        output.line("no camera found; use `--source pattern`, a picture or a directory instead");
    }
    for device in &devices {
        output.event(&line(device))?;
        output.page(table(device))?;
    }
    Ok(())
}

fn line(device: &Device) -> Value {
    json!({
        "index": device.index,
        "name": device.name,
        "path": device.path,
        "bus": device.bus,
        "formats": device.formats.iter().map(format_value).collect::<Vec<_>>(),
        "usual": device.usual_format().as_ref().map(format_value),
        "usedBy": device.used_by,
        "error": device.error,
    })
}

fn format_value(format: &CameraFormat) -> Value {
    let fps = format.fps();
    // JSON writes 30.0 otherwise.
    let fps = if fps.fract() == 0.0 { json!(fps as u64) } else { json!(fps) };
    let (width, height) = (format.width, format.height);
    json!({"fourcc": format.pixels.fourcc(), "width": width, "height": height, "fps": fps})
}

/// One line for the camera, one per size and pixel format, and one for the format `send` uses by default.
fn table(device: &Device) -> String {
    let mut lines = vec![format!("camera:{}  {}  {}", device.index, device.name, device.path)];
    if let Some(error) = &device.error {
        lines.push(error.clone());
    }
    if !device.used_by.is_empty() {
        lines.push(format!("open in {}", device.used_by.join(", ")));
    }
    let alike = |a: &CameraFormat, b: &CameraFormat| {
        (a.width, a.height, a.pixels) == (b.width, b.height, b.pixels)
    };
    for group in device.formats.chunk_by(alike) {
        let size = format!("{}x{}", group[0].width, group[0].height);
        let rates: Vec<String> = group.iter().map(|format| format.fps().to_string()).collect();
        lines.push(format!("{size:<10} {}  {} fps", group[0].pixels, rates.join(", ")));
    }
    match device.usual_format() {
        Some(format) => lines.push(format!("default: {format}")),
        None if device.error.is_none() => lines.push("no supported format".to_owned()),
        None => {}
    }
    let lines: Vec<_> = lines.iter().map(|line| printable(line)).collect();
    lines.join("\n    ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::source::PixelFormat;

    #[test]
    fn a_device_as_table_and_as_json() {
        let format = |interval| CameraFormat {
            width: 1280,
            height: 720,
            pixels: PixelFormat::Yuyv,
            interval,
        };
        let device = Device {
            index: 2,
            name: "Cam".into(),
            path: "/dev/video2".into(),
            bus: "usb-1".into(),
            formats: vec![format((1, 30)), format((2, 25))],
            used_by: vec!["cheese (process 7)".into()],
            error: None,
        };
        assert_eq!(
            table(&device),
            "camera:2  Cam  /dev/video2\n    open in cheese (process 7)\n    \
             1280x720   YUYV  30, 12.5 fps\n    default: 1280x720 YUYV at 30 fps"
        );
        let value = line(&device);
        assert_eq!(
            value["formats"].to_string(),
            r#"[{"fourcc":"YUYV","fps":30,"height":720,"width":1280},{"fourcc":"YUYV","fps":12.5,"height":720,"width":1280}]"#
        );
        assert_eq!(value["usual"], value["formats"][0]);
        assert_eq!((&value["path"], &value["error"]), (&json!("/dev/video2"), &Value::Null));
    }

    #[test]
    fn a_camera_that_cannot_be_opened_shows_the_reason() {
        let device = Device {
            index: 0,
            name: "Cam".into(),
            path: "/dev/video0".into(),
            bus: String::new(),
            formats: Vec::new(),
            used_by: Vec::new(),
            error: Some("no permission to open camera 0".into()),
        };
        let expected = "camera:0  Cam  /dev/video0\n    no permission to open camera 0";
        assert_eq!(table(&device), expected);
    }
}
