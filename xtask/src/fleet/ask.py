"""Has DuckDB or chDB (ClickHouse's engine) answer questions over tables in Parquet files.

Called with an engine's name, the tables' directory and their names. Reads a JSON array of queries from standard input, and writes an
array of what each gives: rows of values, or a text, which says why there is no answer.
"""

import json
import sys
import time

engine, directory, *tables = sys.argv[1:]


def duckdb_engine():
    import duckdb

    connection = duckdb.connect()
    connection.execute("SET threads = 1")
    for table in tables:
        connection.execute(f"CREATE VIEW {table} AS SELECT * FROM read_parquet('{directory}/{table}.parquet')")
    return lambda query: connection.execute(query).fetchall()


def chdb_engine():
    from chdb.session import Session

    session = Session()
    session.query("CREATE DATABASE fleet; USE fleet")
    session.query("SET max_threads = 1")
    for table in tables:
        session.query(f"CREATE VIEW fleet.{table} AS SELECT * FROM file('{directory}/{table}.parquet', 'Parquet')")

    def ask(query):
        said = json.loads(str(session.query(query, "JSONCompact")))
        whole = ["Int" in column["type"] for column in said["meta"]]
        # Numbers of 64 bits come as text.
        value = lambda is_whole, cell: int(cell) if is_whole and cell is not None else cell
        return [[value(*pair) for pair in zip(whole, row)] for row in said["data"]]

    return ask


ask = {"duckdb": duckdb_engine, "chdb": chdb_engine}[engine]()
answers = []
for query in json.load(sys.stdin):
    began = time.monotonic()
    try:
        answer = {"rows": [list(row) for row in ask(query)]}
    except Exception as error:
        answer = {"error": str(error)}
    answers.append(answer | {"seconds": time.monotonic() - began})
json.dump(answers, sys.stdout)
