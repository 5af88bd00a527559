"""The console: pages that try the server out and watch it, and the little that they ask of the server beyond the public API."""
