"""HTTP: connections, requests and responses as bytes, and the Flask application. Knows no other carrier."""
