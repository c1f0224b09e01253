"""HTTP: JSON bodies, the Flask application, the web servers it runs behind, and the clients. No model."""
