-- A store of version 1, as SQLite's shell writes it with .dump. Never change it.
BEGIN TRANSACTION;
CREATE TABLE contents (job INTEGER, unit INTEGER, data BLOB NOT NULL, PRIMARY KEY (job, unit));
INSERT INTO "contents" VALUES(1,0,X'7801AB56CA2C49CD2D56B28A8E5632D0CB2A4857D231343030D0512A3350D2C92BCDC9D151528AD589563284CB1902E50C51E48CE07246403923143963B89C3150CE1821175B0B0004A220BB');
INSERT INTO "contents" VALUES(1,1,X'7801AB56CA2C49CD2D56B28A8E5632D1CB2A4857D231343030D1512A3351D2C92BCDC9D151528AD589563285CB9902E54C1172B1B50081231282');
CREATE TABLE deliveries (
            job INTEGER, sink INTEGER, event_id INTEGER NOT NULL, PRIMARY KEY (job, sink)
        ) WITHOUT ROWID;
INSERT INTO "deliveries" VALUES(1,0,0);
CREATE TABLE events (
            job INTEGER, event_id INTEGER, type TEXT NOT NULL, json TEXT NOT NULL, PRIMARY KEY (job, event_id)
        ) WITHOUT ROWID;
INSERT INTO "events" VALUES(1,0,'state','{"event_id":0,"type":"state","job_id":"night","state":"running","previous":"queued","detail":""}');
CREATE TABLE failures (
            job INTEGER,
            item INTEGER,
            unit INTEGER NOT NULL,
            name TEXT NOT NULL,
            code TEXT NOT NULL,
            detail TEXT NOT NULL,
            client_id TEXT NOT NULL,
            PRIMARY KEY (job, item)
        ) WITHOUT ROWID;
INSERT INTO "failures" VALUES(1,2,0,'2.jpg','undecodable','the image is damaged','');
CREATE TABLE jobs (
            job INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            source TEXT NOT NULL,
            state TEXT NOT NULL,
            detail TEXT NOT NULL DEFAULT '',
            listed INTEGER NOT NULL DEFAULT 0,
            cursor TEXT NOT NULL DEFAULT 'null',
            items INTEGER NOT NULL DEFAULT 0,
            succeeded INTEGER NOT NULL DEFAULT 0,
            failed INTEGER NOT NULL DEFAULT 0,
            in_flight INTEGER NOT NULL DEFAULT 0,
            open_units INTEGER NOT NULL DEFAULT 0,
            out_units INTEGER NOT NULL DEFAULT 0,
            done_units INTEGER NOT NULL DEFAULT 0,
            repeated INTEGER NOT NULL DEFAULT 0,
            errors TEXT NOT NULL DEFAULT '{}',
            detections TEXT NOT NULL DEFAULT '{}',
            models TEXT NOT NULL DEFAULT '{}',
            next_unit INTEGER NOT NULL DEFAULT 0,
            next_item INTEGER NOT NULL DEFAULT 0,
            next_event INTEGER NOT NULL DEFAULT 0,
            created_at_s REAL NOT NULL,
            started_at_s REAL,
            finished_at_s REAL,
            expires_at_s REAL,
            version INTEGER NOT NULL DEFAULT 0
        );
INSERT INTO "jobs" VALUES(1,'night','dock','running','',1,'null',6,3,1,2,0,1,1,0,'{"undecodable": 1}','{"person": 6}','{"default@1": 3}',2,6,1,1795870000.0,1795870000.0,NULL,NULL,4);
CREATE TABLE results (job INTEGER, unit INTEGER, data BLOB NOT NULL, PRIMARY KEY (job, unit));
INSERT INTO "results" VALUES(1,0,X'78013350A856CACA4F8ACF4C51B25250CACB4CCF2851D25150CA2C49CD050A1800997989B9A9203903BDAC8274905C727E695E0950C4A856CE10AF6E4324DD8658741BE3D56D8CA4DB18533700DFDF33BE');
CREATE TABLE specs (job INTEGER PRIMARY KEY, json TEXT NOT NULL);
INSERT INTO "specs" VALUES(1,'{"id":"night","source":{"type":"files","path":"dock"},"tags":{"site":"dock"}}');
CREATE TABLE tags (job INTEGER, key TEXT, value TEXT NOT NULL, PRIMARY KEY (job, key)) WITHOUT ROWID;
INSERT INTO "tags" VALUES(1,'site','dock');
CREATE TABLE units (
            job INTEGER,
            number INTEGER,
            state TEXT NOT NULL,
            attempt INTEGER NOT NULL DEFAULT 0,
            first INTEGER NOT NULL,
            is_clip INTEGER NOT NULL,
            remaining INTEGER NOT NULL,
            todo TEXT,
            deaths INTEGER NOT NULL DEFAULT 0,
            not_before_s REAL,
            PRIMARY KEY (job, number)
        ) WITHOUT ROWID;
INSERT INTO "units" VALUES(1,0,'done',1,0,0,0,NULL,0,NULL);
INSERT INTO "units" VALUES(1,1,'out',1,4,0,2,NULL,1,NULL);
CREATE INDEX jobs_by_state ON jobs (state);
CREATE INDEX jobs_by_expiry ON jobs (expires_at_s);
CREATE INDEX open_units ON units (job, state, number) WHERE state = 'open';
CREATE INDEX paused_units ON units (job, state, not_before_s) WHERE state = 'paused';
CREATE INDEX out_units ON units (job, state, number) WHERE state = 'out';
CREATE INDEX units_by_item ON units (job, first);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('jobs',1);
COMMIT;
PRAGMA user_version = 1;
