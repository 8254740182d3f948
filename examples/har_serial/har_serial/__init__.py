"""What a wearer does, from an inertial sensor on a serial line: read, windowed, inferred, published by MQTT."""
