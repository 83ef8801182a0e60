//! The media line, without any network: source, frame, encoder, access unit, decoder, sink.
