"""Human activity recognition from phone sensors: an ordinary Flower app in torch."""
