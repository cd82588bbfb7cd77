"""The token forms of Penn Treebank English in the tokenizer of the COCO caption scorers.

The behaviour is that of the tokenizer of Stanford CoreNLP 3.4.1 (PTBLexer), which is published under the GPL.
The patterns follow the published definitions of its token forms and were compared with its output.

``RULES`` is ordered. Of the rules that match at a position, the one with the longest match, including the
text that must follow, is used; of several equally long ones, the first.
"""

from typing import NamedTuple


class Rule(NamedTuple):
    """A kind of token: its form, what must follow it, and how its text is written."""

    name: str
    form: str
    follows: str = ""


def one_of(words: str) -> str:
    """Any of ``words``, in any case."""
    return f"(?i:{'|'.join(words.split())})"


LETTER = r"\p{L}\p{M}\xAD\u02C2-\u02C5\u02D2-\u02DF\u02E5-\u02FF\u0384\u0385\u03F6\u055A-\u055F"
# The combining marks that may be part of a word. Those of some scripts may not.
MARKS = (
    r"\u0300-\u036F\u0483-\u0487\u0591-\u05BD\u05BF\u05C1\u05C2\u05C4\u05C5\u05C7\u0615-\u061A"
    r"\u064B-\u065E\u0670\u06D6-\u06DC\u06DF-\u06E8\u06EA-\u06ED\u0711\u0730-\u074A\u07A6-\u07B0"
    r"\u07EB-\u07F3\u0900-\u0903\u093C\u093E-\u094E\u0951-\u0955\u0962\u0963\u0981-\u0983\u09BC-\u09CD"
    r"\u09D7\u09E2\u09E3\u0A01-\u0A03\u0A3C-\u0A4F\u0A81-\u0A83\u0ABC-\u0ACF\u0B82\u0BBE-\u0BCD"
    r"\u0C01-\u0C03\u0C3E-\u0C56\u0D3E-\u0D44\u0D46-\u0D48\u0E31-\u0E3A\u0E47-\u0E4E\u0EB1-\u0EBC"
    r"\u0EC8-\u0ECD"
)
ENTITY = r"&[aeiouAEIOU](?i:acute|grave|uml);"
L = rf"(?:[{LETTER}]|{ENTITY})"
L_OR_D = rf"(?:[{LETTER}\p{{Nd}}]|{ENTITY})"
D = r"\p{Nd}"
PLAIN = r"[\p{L}\p{Nd}]"
SPACE = r"[ \t\xA0\u2000-\u200A\u3000]"
NEWLINE = r"(?:\r?\n|[\r\u2028\u2029\v\f\x85])"
SPACE_OR_LINE = rf"(?:{SPACE}|{NEWLINE})"
APOSTROPHE = r"(?:['\x92\u2019]|(?i:&apos;))"
ANY_APOSTROPHE = r"(?:['\x92\u2019`\x91\u2018\u201B]|(?i:&apos;))"
HYPHEN = r"[-_\u058A\u2010\u2011]"
AMP = "(?:&|(?i:&amp;))"
WITHIN_SENTENCE = r"[,;:\u3001]"
ATTRIBUTE = r"[A-Za-z][A-Za-z0-9_:.\-]*"
SGML = (
    rf"<(?:[!?][A-Za-z\-][^>\r\n]*"
    rf"|{ATTRIBUTE}(?:[ ]+{ATTRIBUTE}(?:[ ]*=[ ]*(?:'[^']*'|\"[^\"]*\"))?)*[ ]*/?"
    rf"|/{ATTRIBUTE})[ ]*>"
)
SENTENCE_END = rf"{SPACE_OR_LINE}(?:{SPACE_OR_LINE}|\p{{Lu}}|{SGML})"

WORD = rf"{L}{L_OR_D}*(?:[.!?]{L}{L_OR_D}*)*"
SHORT_COMMAND = rf"{APOSTROPHE}(?:[msdMSD]|{one_of('re ve ll')})"
NOT = rf"(?i:n){ANY_APOSTROPHE}(?i:t)"
BEFORE_NOT = r"[A-Za-z\xAD]*[A-MO-Za-mo-z]\xAD*"
WITH_APOSTROPHE = "|".join(
    [
        rf"{APOSTROPHE}(?i:n){APOSTROPHE}?",
        rf"[lLdDjJ]{APOSTROPHE}",
        rf"{one_of('dunkin somethin ol')}{APOSTROPHE}",
        rf"{APOSTROPHE}{one_of('em till til cause')}",
        rf"[A-HJ-XZn]{ANY_APOSTROPHE}\p{{L}}{{2,}}",
        rf"{APOSTROPHE}[2-9](?i:0s)",
        rf"\p{{L}}+[aeiouyAEIOUY]{ANY_APOSTROPHE}[aeiouA-Z]\p{{L}}*",
        r"(?i:cont'd\.?)",
        one_of("'twas nor'easter c'mon e'er s'mores ev'ry li'l nat'l"),
        rf"(?i:o){ANY_APOSTROPHE}(?i:o)",
    ]
)
CLEAR = r" \t\n\f\r\"<>|"  # never part of an address
URL_END = rf"[^{CLEAR}.!?(){{}},\-]"
URL = rf"(?i:https?://)[^{CLEAR}(){{}}]+{URL_END}"
SITE = (
    rf"(?:(?i:www\.)(?:[^{CLEAR}.!?(){{}},]+\.)+[a-zA-Z]{{2,4}}"
    # a label of such a name holds no capital and no digit
    rf"|(?:[^{CLEAR}`'.!?(){{}}$,-_]+\.)+{one_of('com net org edu')})"
    rf"(?:/[^{CLEAR}()]+{URL_END})?"
)
MAIL = (
    rf"(?:<|(?i:&lt;))?[a-zA-Z0-9][^{CLEAR}()\xA0{{}}]*@"
    rf"(?:[^{CLEAR}(){{}}.\xA0]+\.)*[^{CLEAR}(){{}}.\xA0]+(?:>|(?i:&gt;))?"
)
DATE = rf"{D}{{1,2}}[\-/]{D}{{1,2}}[\-/]{D}{{2,4}}"
NUMBER = rf"[\-+]?(?:{D}+|{D}*(?:[.:,\xAD\u066B\u066C]{D}+)+)"
RAISED = r"[\u207A\u207B\u208A\u208B]?(?:[\u2070\xB9\xB2\xB3\u2074-\u2079]+|[\u2080-\u2089]+)"
FRACTION = rf"(?:{D}{{1,4}}[\- \xA0])?{D}{{1,4}}(?:\\?/|\u2044){D}{{1,4}}"
SPECIAL = "|".join(
    [
        f"-{one_of('rrb lrb rcb lcb rsb lsb')}-",
        r"(?i:c\.d\.s|pro-|anti-)",
        f"(?i:s){AMP}(?i:p-500|ls)",
        f"(?i:cap){APOSTROPHE}(?i:n)",
        f"(?i:c){APOSTROPHE}(?i:est)",
    ]
)
SLASHED_PART = r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}"
SLASHED = rf"{SLASHED_PART}(?:\\?/{SLASHED_PART}){{1,2}}"
CURRENCY = r"[\xA2-\xA5\x80\u20A0\u20AC\u060B\u0E3F\u20A4\uFFE0\uFFE1\uFFE5\uFFE6]"
COUNTRIES = r"(?i:canada|sino|korean|eu|japan|non)-(?i:u\.s)|(?i:u\.s\.)-(?i:u\.k|u\.s\.s\.r)"
ACRONYM = rf"(?:[A-Za-z](?:\.[A-Za-z])*|{COUNTRIES})"
LONG_ACRONYM = rf"(?:[A-Za-z](?:\.[A-Za-z])+|{COUNTRIES})"
# If one of these words follows, the period of an acronym also ends the sentence.
OPENERS = "|".join(
    f"{word[0]}(?i:{word[1:]})" if len(word) > 1 else word
    for word in (
        r"A About According Additionally After An As At But Earlier He Her Here However If In It "
        r"Last Many More Mr\. Ms\. Now Once One Other Our She Since So Some Such That The Their Then "
        r"There These They This We When While What Yet You"
    ).split()
)
# States whose names are also common words must start with a capital letter.
STATES = "|".join(
    f"{s[0]}(?i:{s[1:]})" for s in "Az Ark Del Ill La Mass Miss Ore Pa Tex Wash".split()
)
CLOSING_ABBREVIATION = (
    "(?:"
    + one_of(
        "jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thurs fri "
        "ala ariz calif colo conn ct dak fla ga ind kans? ky md mich minn mo mont neb nev okla penn "
        "tenn va vt wisc? wyo inc cos? corp pp?t[ye]s? ltd plc rt bancorp bhd assn univ intl sys "
        r"tel est ext sq jr sr bros (?:ed|ph)\.d blvd rd esq etc al seq bldg"
    )
    + rf"|{STATES})\."
)
OPENING_ABBREVIATION = (
    "(?:"
    + one_of(
        "mr mrs ms drs? profs? sens? reps? attys? lt col gen messrs govs? adm rev maj sgt cpl pvt "
        "capt ste? ave pres lieut hon brig co?mdr pfc spc supts? det mt ft adj adv asst assoc ens "
        r"insp mlle mme msgr sfc vs alex wm jos cie a\.k\.a cf treas ph invt elec natl dept"
    )
    + rf"|M(?i:iss)|(?i:m)[ft](?i:g)|{ACRONYM})"
)
BEFORE_NUMBER = one_of("ca figs? prop nos? art bldg pp op") + r"\."
FILE_NAME = rf"{L_OR_D}+(?:\.{L_OR_D}+)*\." + one_of(
    "bat bmp c class cgi cpp dll docx? exe gif gz h html? jar java jpe?g mov mp3 pdf php pl png "
    "ppt ps py sql tar txt wav x xml zip"
)
HYPHENATED = rf"[A-Za-z0-9][A-Za-z0-9.,\xAD]*(?:-(?:[A-Za-z0-9\xAD]+|{LONG_ACRONYM}\.))+"
PREFIX = rf"(?:[dDoOlL]{ANY_APOSTROPHE}{PLAIN})?"
THING = rf"{PREFIX}{PLAIN}+(?:{HYPHEN}{PREFIX}{PLAIN}+)*"
JOINED_CAPITALS = r"[A-Z]+(?:(?:[+&]|(?i:&amp;))[A-Z]+)+"
PHONE = (
    r"(?:\([0-9]{2,3}\)[ \xA0]?|(?:\+\+?)?(?:[0-9]{2,4}[\- \xA0])?[0-9]{2,4}[\- \xA0])"
    r"[0-9]{3,4}[\- \xA0]?[0-9]{3,5}"
    r"|(?:(?:\+\+?)?[0-9]{2,4}\.)?[0-9]{2,4}\.[0-9]{3,4}\.[0-9]{3,5}"
)
QUOTE_MARKS = r"`\u2018\u2019\u201A\u201B\u201C\u201D\x91-\x94\u201E\u201F\u2039\u203A\xAB\xBB"
SMILEY = r"[<>]?[:;=][\-o*']?[()DPdpO\\{@|\[\]]"
ASIAN_SMILEY = (
    r"[\^x=~<>]\.\[\^x=~<>\]|[\-\^x=~<>']_[\-\^x=~<>']"
    r"|\([\-\^x=~<>'][_.]?[\-\^x=~<>']\)|\([\^x=~<>']-[\^x=~<>'`]\)"
)
SYMBOL = (
    r"[+%&~\^|\\\xA6-\xA9\xAC\xAE-\xBA\xD7\xF7\u0387\u05BE\u05C0\u05C3\u05C6\u05F3\u05F4"
    r"\u0600-\u0603\u0606-\u060A\u060C\u0614\u061B\u061E\u066A\u066D\u0703-\u070D\u07F6-\u07F8"
    r"\u0964\u0965\u0E4F\u1FBD\u2016\u2017\u2020-\u2023\u2030-\u2038\u203B\u203E-\u2042\u2044"
    r"\u207A-\u207F\u208A-\u208E\u2100-\u214F\u2190-\u2BFF\u3012\u30FB\uFF01-\uFF0F\uFF1A-\uFF20"
    r"\uFF3B-\uFF40\uFF5B-\uFF65]"
)

RULES = (
    Rule("plain", r"(?i:c\+\+|[cf]#)"),
    Rule("cut3", one_of("cannot 'twas")),
    Rule("cut2", one_of("'tis gonna gotta lemme gimme wanna")),
    Rule("spaced", SGML),
    Rule("dash", r"(?i:&(?:md|mdash|ndash);)|[\x96\x97\u2013-\u2015]"),
    Rule("amp", "(?i:&amp;)"),
    Rule("plain", "(?i:&(?:ht|tl|ur|lr|qc|ql|qr|odq|cdq|#[0-9]+);)"),
    Rule("soft", WORD, SHORT_COMMAND),
    Rule("soft", BEFORE_NOT, NOT),
    Rule("soft", WORD),
    Rule("plain", WITH_APOSTROPHE),
    Rule("plain", f"(?i:y){APOSTROPHE}", r"\p{L}"),
    Rule("plain", URL),
    Rule("plain", SITE),
    Rule("plain", MAIL),
    Rule("plain", rf"@[a-zA-Z_][a-zA-Z_0-9]*|#{L}+"),
    Rule("close", SHORT_COMMAND, "[^A-Za-z]"),
    Rule("close", NOT, "[^A-Za-z]"),
    Rule("plain", DATE),
    Rule("soft", NUMBER),
    Rule("plain", RAISED),
    Rule("spaced", FRACTION),
    Rule("fraction", r"[\xBC-\xBE\u2153-\u215E]"),
    Rule("amp", SPECIAL),
    Rule("plain", SLASHED),
    Rule("plain", r"[A-Z]*\$|#"),
    Rule("currency", CURRENCY),
    Rule("acronym", rf"{ACRONYM}\.", rf"{SPACE_OR_LINE}+(?:{OPENERS}|{SGML}){SPACE_OR_LINE}"),
    Rule("plain", BEFORE_NUMBER, rf"{SPACE_OR_LINE}?{D}"),
    Rule("plain", r"(?:(?i:pt)[eyEY]|(?i:co))\.", f"{SPACE}{one_of('ltd lim')}"),
    Rule("ending", CLOSING_ABBREVIATION, SENTENCE_END),
    Rule("plain", CLOSING_ABBREVIATION, r"[\s\S]{2}"),
    Rule("ending", CLOSING_ABBREVIATION),
    Rule("plain", rf"{OPENING_ABBREVIATION}\."),
    Rule("plain", OPENING_ABBREVIATION, SPACE),
    Rule("plain", ACRONYM, SPACE_OR_LINE),
    Rule("plain", f"{APOSTROPHE}[0-9][0-9]", SPACE_OR_LINE),
    Rule("plain", FILE_NAME, rf"(?:{SPACE_OR_LINE}|[.?!,])"),
    Rule("soft", rf"{WORD}\.", WITHIN_SENTENCE),
    Rule("phone", PHONE),
    Rule("open", '"|(?i:&quot;)', "[A-Za-z0-9$]"),
    Rule("close", '"|(?i:&quot;)'),
    Rule("skip", r"\x7f"),
    Rule("less", "<|(?i:&lt;)"),
    Rule("greater", ">|(?i:&gt;)"),
    Rule("brackets", SMILEY, "[^A-Za-z0-9]"),
    Rule("brackets", ASIAN_SMILEY),
    Rule("brackets", r"[{}\[\]()]"),
    Rule("hyphens", "-+"),
    Rule("dots", r"\.{3,5}|(?:\.[ \xA0]){2,4}\.|[\x85\u2026]"),
    Rule("plain", r"@+|#+|_+|\*+|(?:\\\*){1,3}"),
    Rule("plain", WITHIN_SENTENCE),
    Rule("plain", r"[?!]+"),
    Rule("plain", r"[.\xA1\xBF\u037E\u0589\u061F\u06D4\u0700-\u0702\u07FA\u3002]"),
    Rule("plain", "[=/]"),
    Rule("soft", rf"{HYPHENATED}\.", WITHIN_SENTENCE),
    Rule("soft", HYPHENATED),
    Rule("plain", rf"{THING}\.", WITHIN_SENTENCE),
    Rule("plain", THING),
    Rule("amp", rf"{JOINED_CAPITALS}\.", WITHIN_SENTENCE),
    Rule("amp", JOINED_CAPITALS),
    Rule("open", "'", r"[A-Za-z][^ \t\n\r\xA0]"),
    Rule("close", SHORT_COMMAND),
    Rule("close", NOT),
    Rule("close", rf"{APOSTROPHE}|''|[{QUOTE_MARKS}]{{1,2}}"),
    Rule("plain", "<<|>>"),
    Rule("plain", SYMBOL),
    Rule("skip", rf"\0|{SPACE}+|[\u200B\u200E\u200F\uFEFF]|(?i:&nbsp;)"),
    Rule("line", NEWLINE),
)
