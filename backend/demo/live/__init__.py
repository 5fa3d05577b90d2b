"""The media engine of an instance: a drawn face that speaks, by WebRTC, in a process of its own."""
