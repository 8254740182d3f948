"""Small digits on thin boards: a Flower app in numpy alone."""
