//! NATs and links in this process, under real sockets.
