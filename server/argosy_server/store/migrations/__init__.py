"""How the tables came to be, for Alembic. `Store.open` brings a database to the newest revision by itself.

To change a table: change `tables.py`, then write the next `versions/v000N_….py` by hand and run the tests, which
compare the two.
"""
