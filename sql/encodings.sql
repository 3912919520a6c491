--
-- Ids and messages in databases of other encodings than the API's UTF-8. An id
-- arrives as the same characters; of a message, what the encoding can't hold
-- becomes "?". No byte that is invalid in the database's encoding ever gets in.
-- Everything is shown in hexadecimal or as the wire has it, in ASCII.
--
SELECT current_database() AS home \gset
SET client_min_messages = warning;
DROP DATABASE IF EXISTS regress_sendkit_utf8;
DROP DATABASE IF EXISTS regress_sendkit_latin1;
DROP DATABASE IF EXISTS regress_sendkit_euc_jp;
DROP DATABASE IF EXISTS regress_sendkit_sql_ascii;
CREATE DATABASE regress_sendkit_utf8 ENCODING 'UTF8' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C';
CREATE DATABASE regress_sendkit_latin1 ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C';
CREATE DATABASE regress_sendkit_euc_jp ENCODING 'EUC_JP' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C';
CREATE DATABASE regress_sendkit_sql_ascii ENCODING 'SQL_ASCII' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C';

-- In each of them: one function deletes by an id in hexadecimal and shows the
-- message, or the error, likewise; another has the API answer with a body.
\set create_functions 'CREATE EXTENSION sendkit; CREATE FUNCTION pg_temp.by_id(id bytea) RETURNS text LANGUAGE plpgsql AS $$ DECLARE detail text; BEGIN RETURN message FROM sendkit_delete_api_key(convert_from(id, getdatabaseencoding()), ''sk_user_encodings''); EXCEPTION WHEN invalid_parameter_value THEN GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL; RETURN detail; END $$; CREATE FUNCTION pg_temp.message(body text) RETURNS text LANGUAGE sql AS $$ SELECT encode(convert_to(message, getdatabaseencoding()), ''hex'') FROM sendkit_delete_api_key(''m;hex='' || body, ''sk_user_encodings'') $$; CREATE FUNCTION pg_temp.refusal(body text, OUT error_code text, OUT details text) LANGUAGE sql AS $$ SELECT encode(convert_to(error_code, getdatabaseencoding()), ''hex''), encode(convert_to(details::text, getdatabaseencoding()), ''hex'') FROM sendkit_delete_api_keys(ARRAY[''e;status=403;hex='' || body], ''sk_user_encodings'') $$;'

-- The body's message, between brackets: a letter of LATIN1, the euro sign, a letter
-- of hiragana, two kanji, a character beyond 16 bits, a C1 control and DEL. Once
-- as they are, once as JSON's escapes.
SELECT encode('{"success":true,"data":{"message":"[\303\251|\342\202\254|\343\201\202|\346\227\245\346\234\254|\360\237\224\221|\302\205\177]"}}'::bytea, 'hex') AS plain,
	   encode('{"success":true,"data":{"message":"[\\u00e9|\\u20ac|\\u3042|\\u65e5\\u672c|\\ud83d\\udd11|\\u0085\\u007f]"}}'::bytea, 'hex') AS escaped \gset

-- The same kinds of characters in an error's code and details
SELECT encode('{"error":{"code":"[\303\251|\342\202\254|\343\201\202]","message":"no","details":[{"\303\251":"\346\227\245|\\ud83d\\udd11|\\u00e9"}]}}'::bytea, 'hex') AS refusal \gset

\c regress_sendkit_utf8
:create_functions
SELECT getdatabaseencoding(), pg_temp.message(:'plain'), pg_temp.message(:'plain') = pg_temp.message(:'escaped') AS same;
SELECT * FROM pg_temp.refusal(:'refusal');
-- "e acute, kanji, key emoji", a euro sign 85 times, which is the limit, and one more
SELECT pg_temp.by_id('\xc3a9e697a5f09f9491');
SELECT pg_temp.by_id(decode(repeat('e282ac', 85), 'hex'));
SELECT pg_temp.by_id(decode(repeat('e282ac', 85), 'hex') || 'x');
-- C1 controls are control characters; a no-break space (U+00A0) is a blank.
SELECT pg_temp.by_id('\xc280'), pg_temp.by_id('\x61c29f');
SELECT pg_temp.by_id('\xc2a0'), pg_temp.by_id('\x61c2a062');
-- So are a wide one (U+3000), one without width (U+200B) and a byte order mark.
SELECT pg_temp.by_id('\x61e38080'), pg_temp.by_id('\x61e2808b'), pg_temp.by_id('\xefbbbf61');
-- Of a message of 40000 characters 1 KB is kept, cut between two of them.
SELECT length(message), octet_length(message)
FROM sendkit_delete_api_key('long;body=long-message', 'sk_user_encodings');

\c regress_sendkit_latin1
:create_functions
SELECT getdatabaseencoding(), pg_temp.message(:'plain'), pg_temp.message(:'plain') = pg_temp.message(:'escaped') AS same;
SELECT * FROM pg_temp.refusal(:'refusal');
-- "e acute, y diaeresis"; 127 letters are 254 bytes in UTF-8, 128 are too many
SELECT pg_temp.by_id('\xe9ff');
SELECT pg_temp.by_id(decode(repeat('e9', 127), 'hex'));
SELECT pg_temp.by_id(decode(repeat('e9', 128), 'hex'));
SELECT pg_temp.by_id('\x80'), pg_temp.by_id('\x619f');
SELECT length(message), octet_length(message), message = repeat(convert_from('\xe978', 'LATIN1'), 512) AS same
FROM sendkit_delete_api_key('long;body=long-message', 'sk_user_encodings');

\c regress_sendkit_euc_jp
:create_functions
SELECT getdatabaseencoding(), pg_temp.message(:'plain'), pg_temp.message(:'plain') = pg_temp.message(:'escaped') AS same;
SELECT * FROM pg_temp.refusal(:'refusal');
-- hiragana and kanji; a katakana of half width, and a character of three bytes
SELECT pg_temp.by_id('\xa4a2c6fc');
SELECT pg_temp.by_id('\x8eb18fb0a1');
-- well-formed, but no character at all
SELECT pg_temp.by_id('\x61a9a1');

\c regress_sendkit_sql_ascii
:create_functions
-- Nothing is known about the bytes here: they pass, if they are UTF-8.
SELECT getdatabaseencoding(), pg_temp.message(:'plain'), pg_temp.message(:'plain') = pg_temp.message(:'escaped') AS same;
SELECT * FROM pg_temp.refusal(:'refusal');
SELECT pg_temp.by_id('\xc3a9e697a5f09f9491');
SELECT pg_temp.by_id('\xe9');
SELECT pg_temp.by_id('\x61e697');
SELECT pg_temp.by_id('\xc0af');
SELECT pg_temp.by_id('\xeda080');
SELECT pg_temp.by_id('\xc280');

-- On the wire it was UTF-8 every time.
\! $STANDIN_CTL GET '/requests?fields=target' | grep -v -e '%3B' -e key/ | cut -c 1-60

-- Keys are ASCII: any other byte is refused in whichever encoding.
SELECT sendkit_delete_api_key('key', convert_from('\x736b5f757365725fc3a9', 'SQL_ASCII'));
\c regress_sendkit_latin1
\set VERBOSITY terse
SELECT sendkit_delete_api_key('key', convert_from('\x736b5f757365725fe9', 'LATIN1'));
\set VERBOSITY default

\c :home
DROP DATABASE regress_sendkit_utf8;
DROP DATABASE regress_sendkit_latin1;
DROP DATABASE regress_sendkit_euc_jp;
DROP DATABASE regress_sendkit_sql_ascii;
