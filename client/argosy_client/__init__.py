"""The device daemon: a light supervisor, and a resident worker process that hosts the Flower ClientApp."""
