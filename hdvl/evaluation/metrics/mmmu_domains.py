"""The six domains of MMMU and their thirty subjects."""

from collections.abc import Mapping

DOMAINS = {
    "Art and Design": "Art Art_Theory Design Music",
    "Business": "Accounting Economics Finance Manage Marketing",
    "Science": "Biology Chemistry Geography Math Physics",
    "Health and Medicine": "Basic_Medical_Science Clinical_Medicine "
    "Diagnostics_and_Laboratory_Medicine Pharmacy Public_Health",
    "Humanities and Social Science": "History Literature Sociology Psychology",
    "Tech and Engineering": "Agriculture Architecture_and_Engineering Computer_Science Electronics "
    "Energy_and_Power Materials Mechanical_Engineering",
}
DOMAIN_OF = {subject: domain for domain, names in DOMAINS.items() for subject in names.split()}


def by_domain(subjects: Mapping[str, tuple[int, int]]) -> dict[str, float]:
    """Accuracy of each domain that has questions, from (right, asked) of its subjects."""
    right, asked = dict.fromkeys(DOMAINS, 0), dict.fromkeys(DOMAINS, 0)
    for subject, (hits, count) in subjects.items():
        domain = DOMAIN_OF.get(subject)
        if domain is not None:
            right[domain] += hits
            asked[domain] += count
    return {domain: right[domain] / count for domain, count in asked.items() if count}
