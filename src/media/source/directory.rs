//! The pictures in a directory, in the order of their names, repeated.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
};

use super::{
    Captured, Source, SourceError, SourceOptions,
    picture::{Notices, is_picture, read_decoded},
};

/// Returns the pictures one after the other; pictures that cannot be read are skipped with a
/// warning.
pub(super) struct DirectorySource {
    dir: PathBuf,
    pictures: Vec<PathBuf>,
    next: usize,
    warned: HashSet<PathBuf>,
    notices: HashMap<PathBuf, Notices>,
    options: SourceOptions,
}

impl DirectorySource {
    /// Lists the directory and checks that at least one picture can be read.
    pub(super) fn open(dir: &Path, options: SourceOptions) -> Result<Self, SourceError> {
        let wrong = |cause| SourceError::Open { path: dir.to_owned(), cause };
        let mut pictures = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(wrong)? {
            let path = entry.map_err(wrong)?.path();
            if path.is_file() && (is_called_picture(&path) || is_picture(&path)) {
                pictures.push(path);
            }
        }
        if pictures.is_empty() {
            return Err(SourceError::EmptyDirectory { path: dir.to_owned() });
        }
        pictures.sort();
        let mut source = Self {
            dir: dir.to_owned(),
            pictures,
            next: 0,
            warned: HashSet::new(),
            notices: HashMap::new(),
            options,
        };
        source.advance()?;
        // The first readable picture is returned first.
        source.next = source.next.checked_sub(1).unwrap_or(source.pictures.len() - 1);
        Ok(source)
    }

    fn advance(&mut self) -> Result<Captured, SourceError> {
        let mut last = None;
        for _ in 0..self.pictures.len() {
            let path = &self.pictures[self.next];
            self.next = (self.next + 1) % self.pictures.len();
            let notices = self.notices.entry(path.clone()).or_default();
            let frame = read_decoded(path)
                .map(|decoded| notices.shown(decoded, &path.display().to_string()));
            match frame.and_then(|frame| self.options.apply(frame)) {
                Ok(frame) => return Ok(Captured::Frame(frame)),
                Err(error) => {
                    if self.warned.insert(path.clone()) {
                        tracing::warn!("skipped: {error}");
                    }
                    last = Some(error);
                }
            }
        }
        Err(match last {
            Some(last) => SourceError::NoReadablePicture {
                path: self.dir.clone(),
                count: self.pictures.len(),
                last: Box::new(last),
            },
            None => SourceError::EmptyDirectory { path: self.dir.clone() },
        })
    }
}

/// Whether a file has the name of a supported picture: if it is not a picture, that is worth a
/// warning.
fn is_called_picture(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    matches!(extension.as_str(), "jpg" | "jpeg" | "png" | "webp")
}

impl Source for DirectorySource {
    fn describe(&self) -> String {
        format!("{} pictures of {}", self.pictures.len(), self.dir.display())
    }

    fn next(&mut self) -> Result<Option<Captured>, SourceError> {
        self.advance().map(Some)
    }
}
