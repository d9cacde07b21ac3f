"""How many tokens each vendor counts for an image or a video: pure functions of sizes, frames and seconds."""
