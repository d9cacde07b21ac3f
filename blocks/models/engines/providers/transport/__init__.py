"""How answers of providers are read: bounded in bytes and seconds, over each SDK's own HTTP library."""
