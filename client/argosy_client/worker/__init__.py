"""The worker: a resident process that hosts one run's client app, and the supervisor's side of it."""
