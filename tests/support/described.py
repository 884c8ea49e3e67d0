"""All that the catalogue knows of a table and what hangs on it, as plain values: two tables can be compared by it."""

import re
from typing import Any

import psycopg
from psycopg.rows import dict_row

Connection = psycopg.AsyncConnection[Any]

QUERIES = {
    "table": """
        SELECT c.relkind::text, c.relpersistence::text, pg_get_userbyid(c.relowner) AS owner, c.reloptions,
               t.reloptions AS toast, s.spcname,
               c.relreplident::text, c.relrowsecurity, c.relforcerowsecurity, obj_description(c.oid, 'pg_class') AS comment
          FROM pg_class c LEFT JOIN pg_class t ON t.oid = c.reltoastrelid LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace
         WHERE c.oid = %(table)s::regclass""",
    "columns": """
        SELECT a.attname, format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull, a.attidentity::text,
               a.attgenerated::text, a.attstorage::text,
               a.attcompression::text, coalesce(a.attstattarget, -1)::int AS target, a.attoptions,
                      a.attcollation::regcollation::text AS collation,
               pg_get_expr(d.adbin, d.adrelid) AS value, col_description(a.attrelid, a.attnum) AS comment
          FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
         WHERE a.attrelid = %(table)s::regclass AND a.attnum > 0 AND NOT a.attisdropped""",
    "rights": """
        SELECT a.attname, x.grantee::regrole::text AS grantee, x.privilege_type, x.is_grantable
          FROM pg_attribute a, aclexplode(a.attacl) x WHERE a.attrelid = %(table)s::regclass
        UNION ALL SELECT NULL, x.grantee::regrole::text, x.privilege_type, x.is_grantable
          FROM pg_class c, aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) x WHERE c.oid = %(table)s::regclass""",
    "constraints": """
        SELECT c.conrelid::regclass::text AS table, c.conname, c.contype::text, pg_get_constraintdef(c.oid) AS definition,
               c.convalidated,
               obj_description(c.oid, 'pg_constraint') AS comment
          FROM pg_constraint c WHERE %(table)s::regclass IN (c.conrelid, c.confrelid)""",
    "indexes": """
        SELECT pg_get_indexdef(i.indexrelid) AS definition, i.indisvalid, i.indisprimary, i.indisclustered, i.indisreplident,
               s.spcname,
               x.reloptions, pg_get_userbyid(x.relowner) AS owner, obj_description(x.oid, 'pg_class') AS comment,
               (SELECT array_agg(a.attstattarget::int ORDER BY a.attnum) FROM pg_attribute a
                 WHERE a.attrelid = x.oid AND a.attstattarget >= 0) AS targets
          FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid LEFT JOIN pg_tablespace s ON s.oid = x.reltablespace
         WHERE i.indrelid = %(table)s::regclass""",
    "statistics": """
        SELECT pg_get_statisticsobjdef(oid) AS definition, pg_get_userbyid(stxowner) AS owner, coalesce(stxstattarget,
               -1)::int AS target,
               obj_description(oid, 'pg_statistic_ext') AS comment
          FROM pg_statistic_ext WHERE stxrelid = %(table)s::regclass""",
    "triggers": """
        SELECT pg_get_triggerdef(oid) AS definition, tgenabled::text, obj_description(oid, 'pg_trigger') AS comment
          FROM pg_trigger WHERE tgrelid = %(table)s::regclass AND NOT tgisinternal""",
    "policies": """
        SELECT polname, polpermissive, polcmd::text, ARRAY(SELECT r::regrole::text FROM unnest(polroles) r ORDER BY 1) AS roles,
               pg_get_expr(polqual, polrelid) AS qual, pg_get_expr(polwithcheck, polrelid) AS checked, obj_description(oid,
                      'pg_policy') AS comment
          FROM pg_policy WHERE polrelid = %(table)s::regclass""",
    "publications": """
        SELECT p.pubname, pg_get_expr(r.prqual, r.prrelid) AS filter,
               ARRAY(SELECT a.attname::text FROM pg_attribute a
                 WHERE a.attrelid = r.prrelid AND a.attnum = ANY (r.prattrs) ORDER BY 1) AS listed
          FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid WHERE r.prrelid = %(table)s::regclass""",
    "sequences": """
        SELECT s.oid::regclass::text AS name, a.attname, d.deptype::text, pg_get_userbyid(s.relowner) AS owner,
               format_type(q.seqtypid, NULL) AS type,
               q.seqstart, q.seqincrement, q.seqmin, q.seqmax, q.seqcache, q.seqcycle, obj_description(s.oid,
                      'pg_class') AS comment,
               ARRAY(SELECT format('%%s %%s', x.grantee::regrole, x.privilege_type) FROM aclexplode(s.relacl) x
                 WHERE x.grantee <> s.relowner ORDER BY 1) AS rights
          FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S' JOIN pg_sequence q ON q.seqrelid = s.oid
          JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
         WHERE d.classid = 'pg_class'::regclass AND d.refobjid = %(table)s::regclass AND d.deptype IN ('a', 'i')""",
}


async def described(conn: Connection, table: str) -> dict[str, list[dict[str, Any]]]:
    """Describe a table."""
    found = {}
    for name, query in QUERIES.items():
        async with conn.cursor(row_factory=dict_row) as cursor:
            rows = await (await cursor.execute(query.encode(), {"table": table})).fetchall()
        found[name] = sorted(rows, key=repr)
    return found


def mapped(described: dict[str, list[dict[str, Any]]], renamed: dict[str, str]) -> dict[str, list[dict[str, Any]]]:
    """Give a description in which columns have other names, wherever they stand."""
    pattern = re.compile(r"\b(" + "|".join(renamed) + r")\b")

    def said(value: Any) -> Any:
        if isinstance(value, str):
            return pattern.sub(lambda match: renamed[match[1]], value)
        return [said(each) for each in value] if isinstance(value, list) else value

    return {
        name: sorted(({key: said(value) for key, value in row.items()} for row in rows), key=repr)
        for name, rows in described.items()
    }
