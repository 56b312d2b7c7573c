"""Synthetic referrals over a year, and how the people in each would answer. No household here ever existed.

Where the numbers come from (a constant names its source, or says that it is assumed):

* CoMensha 2013: Jaarcijfers 2013, https://www.comensha.nl/actualiteiten/item/jaarcijfers-van-comensha-2013/
* CoMensha 2017: 24/7 meldlijn, https://www.comensha.nl/actualiteiten/item/24-7-meldlijn-mensenhandel/
* CoMensha 2020: Het beeld van 2020, https://publicaties.comensha.nl/het_beeld_van_2020/aard_en_omvang
* CoMensha blog: een kijkje in de keuken, https://www.comensha.nl/actualiteiten/item/blog-2-een-kijkje-in-de-keuken-van-comensha/
* woxx 2025: https://www.woxx.lu/traite-des-etres-humains-la-ccdh-exige-plus-de-reactivite
* CCDH 2026: 5e rapport, https://ccdh.public.lu/fr/actualites/2026/teh5.html
* TIP 2021: https://www.state.gov/reports/2021-trafficking-in-persons-report/luxembourg/
* Payoke 2018: https://www.payoke.be/persbericht/payoke-heeft-alleen-al-in-2018-meer-dan-160-slachtoffers-van-mensenhandel-begeleid/
* ECPAT: https://ecpat.be/en/how-to-react-in-case-of-suspicion/
* Women's Aid 2023 and referrals 2022-23 (English refuges, as proxy): https://www.womensaid.org.uk/information-support/what-is-domestic-abuse/domestic-abuse-services/
  and https://www.todaysfamilylawyer.co.uk/estimate-of-one-in-four-women-seeking-refuge-will-be-turned-away-due-to-lack-of-capacity-and-funding/
* PAG-ASA: https://www.pag-asa.be/nl/hulp-aan-slachtoffers
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import TypeVar
from zoneinfo import ZoneInfo

import msgspec

from events.vocabulary import (
    AgeStatus,
    CountryCode,
    DangerZone,
    DeclineReason,
    Household,
    LanguageCode,
    Need,
    RegionCode,
    Urgency,
)
from reference import Reference
from simulation.inventory import MIGRANT_LANGUAGES

_Choice = TypeVar("_Choice")

DAYS = 364
"""52 whole weeks, so that every weekday comes as often."""

DANGER_COUNTRIES = {"NL": 160, "BE": 115, "LU": 28}
"""Bed needs through a desk in a year: NL 15 % of about 1,060 registrations (CoMensha 2013); BE from Payoke 2018 and LU from 16
people sheltered in 2020 (TIP 2021), both filled up by assumption."""

BURST_COUNTRY, BURST_SHARE, BURST_SIZE = "LU", 0.7, 8
"""Luxembourg's cases come in bursts: one file alone was about 50 people (woxx 2025). Share and size assumed."""

WEEKEND = 0.15
"""Assumed."""
HOURS_OF_DAY = {(7, 20): 0.80, (20, 23): 0.15, (23, 31): 0.05}
"""Share of referrals by local hour; 31 is 7 the next morning. Few calls at night, most just outside office hours (CoMensha
2017); shares assumed."""

URGENT = 0.2
"""Assumed."""

MINOR = 0.075
"""5-10 %: about ten children a year enter the Belgian procedure (ECPAT), one in two years in Luxembourg (woxx 2025)."""
FAMILY = 0.10
"""Assumed."""
WOMAN = 0.6
"""50-70 % of the adults alone (CoMensha 2020; CCDH 2026: 83 of 152, but four in five of those exploited at work are men)."""

NEEDS = {
    Need.WHEELCHAIR_ACCESS: 0.02,
    Need.MEDICAL_CARE: 0.10,
    Need.PSYCHIATRIC_CARE: 0.12,
    Need.ADDICTION_CARE: 0.06,
    Need.SECURED_ENTRANCE: 0.20,
    Need.LGBTQ_SAFE: 0.04,
    Need.PETS: 0.01,
}
PREGNANT, INFANT = 0.08, 0.5
"""What the helpdesk asks about first: safety, pregnancy, addiction, mental health (CoMensha blog). Shares assumed; the second
is how often a child under six is an infant."""

ENGLISH, OWN_LANGUAGE = 0.4, 0.25
"""How many speak English, or a language of the country they are in (assumed; 31 nationalities a year, Payoke 2018)."""

SECOND_ZONE, WITH_NEIGHBOURS, ZONE_ABROAD = 0.3, 0.5, 0.1
"""A second region, the neighbouring regions too, a region across the border (assumed)."""

CONSENT_TO_ALL, CONSENT_TO_ONE = 0.6, 0.25
"""What the household has agreed to at the start; the rest was not asked yet (assumed). A minor's guardian is asked later."""

THIRD_COUNTRY_NATIONAL = {True: 0.55, False: 0.35, None: 0.10}
"""None: not known yet. Most registered nationalities 2020: PL 190, NG 185, NL 155 (CoMensha 2020); shares assumed."""
REFLECTION_STARTED = 0.6
"""Of third-country nationals (assumed)."""

ASK_FAILS, FAILS_BY_HOUSEHOLD = 0.60, 0.35
"""Of all asks 60 % lead to no placement; of those 40 % for want of space, 35 % by the household's own no, the rest because risk
or needs do not fit (Women's Aid 2023; referrals 2022-23)."""
HOUSEHOLD_SAYS_NO = ASK_FAILS * FAILS_BY_HOUSEHOLD / (1 - ASK_FAILS * (1 - FAILS_BY_HOUSEHOLD))
"""After a shelter's yes."""

DECLINES = {
    DeclineReason.NO_SPACE: 0.32,
    DeclineReason.NOT_STAFFED: 0.05,
    DeclineReason.REPORT_WAS_WRONG: 0.03,
    DeclineReason.UNSAFE_FOR_HOUSEHOLD: 0.07,
    DeclineReason.UNSAFE_FOR_RESIDENTS: 0.06,
    DeclineReason.NEEDS_NOT_MET: 0.08,
    DeclineReason.LANGUAGE_NOT_MET: 0.03,
    DeclineReason.WRONG_TRACK: 0.01,
}
"""Shares of all failed asks that a shelter's own no makes up, 0.65 in all. The first three together are the want of space."""

ANSWER_MEDIAN = {Urgency.URGENT: timedelta(minutes=12), Urgency.STANDARD: timedelta(hours=3)}
ANSWER_SPREAD = 1.0
"""Lognormal. With these, about one urgent ask in six is answered after its half hour (assumed)."""

STAY_MEDIAN, STAY_SPREAD = timedelta(days=152), 0.55
"""Lognormal: five months, two thirds between three and nine (PAG-ASA: typically 3-9 months; shape assumed)."""

ASKS_DRAWN = 12
"""Answers drawn ahead for each household; who needs more starts again with the first."""


class AskBehaviour(msgspec.Struct, frozen=True, kw_only=True):
    """What happens to one ask."""

    answered_after: timedelta
    decline: DeclineReason | None
    """None: the shelter says yes."""
    household_agrees: bool
    """What the household says to this place, should the shelter say yes."""


class Behaviour(msgspec.Struct, frozen=True, kw_only=True):
    """How the people around one referral will act; no part of Haven ever sees it."""

    asks: tuple[AskBehaviour, ...]
    """For the first ask, the second, and so on."""
    stay: timedelta


class Referral(msgspec.Struct, frozen=True, kw_only=True):
    """What a referrer would open, `at` a moment in UTC: `events.gateway.OpenRelocationRequest` without its id and callback."""

    at: datetime
    urgency: Urgency
    danger_country: CountryCode
    danger_zones: tuple[DangerZone, ...]
    household: Household
    needs: tuple[Need, ...]
    languages: tuple[LanguageCode, ...]
    consented_countries: tuple[CountryCode, ...]
    third_country_national: bool | None
    reflection_started_on: date | None
    region_of_stay: RegionCode | None
    behaviour: Behaviour


def referrals(seed: int, cases: int, start: datetime, reference: Reference) -> Iterator[Referral]:
    """`cases` referrals in the 52 weeks from `start` (aware), earliest first; the same for the same arguments. Raises
    `reference.UnknownCountry` when a case falls in a country that `reference` lacks."""
    rng = random.Random(seed)
    days = [start.date() + timedelta(days=number) for number in range(DAYS)]
    bursts = _bursts(rng, cases, days)
    drawn = [_referral(rng, _draw(rng, DANGER_COUNTRIES), start, days, bursts, reference) for _ in range(cases)]
    yield from sorted(drawn, key=lambda referral: referral.at)


def _referral(
    rng: random.Random,
    country: str,
    start: datetime,
    days: Sequence[date],
    bursts: Sequence[Sequence[date]],
    reference: Reference,
) -> Referral:
    in_burst = country == BURST_COUNTRY and rng.random() < BURST_SHARE
    zone = ZoneInfo(reference.country(country).timezone)
    at = _arrival(rng, start, rng.choice(bursts) if in_burst else days, zone)
    urgency = Urgency.URGENT if rng.random() < URGENT else Urgency.STANDARD
    household = _household(rng)
    third_country_national = _draw(rng, THIRD_COUNTRY_NATIONAL)
    in_reflection = third_country_national is True and rng.random() < REFLECTION_STARTED
    zones = _danger_zones(rng, country, reference)
    return Referral(
        at=at,
        urgency=urgency,
        danger_country=country,
        danger_zones=zones,
        household=household,
        needs=_needs(rng, household),
        languages=_languages(rng, reference.country(country).languages),
        consented_countries=_consented(rng, household, [code for code in reference.countries if code != country]),
        third_country_national=third_country_national,
        reflection_started_on=at.astimezone(zone).date() - timedelta(days=rng.randint(0, 30))
        if in_reflection
        else None,
        region_of_stay=zones[0].code,
        behaviour=_behaviour(rng, urgency),
    )


def _draw(rng: random.Random, shares: Mapping[_Choice, float]) -> _Choice:
    return rng.choices(list(shares), list(shares.values()))[0]


def _bursts(rng: random.Random, cases: int, days: Sequence[date]) -> list[Sequence[date]]:
    """The weeks in which most of Luxembourg's cases fall."""
    expected = cases * DANGER_COUNTRIES[BURST_COUNTRY] / sum(DANGER_COUNTRIES.values()) * BURST_SHARE
    first_days = (rng.randrange(len(days) - 7) for _ in range(max(1, round(expected / BURST_SIZE))))
    return [days[first : first + 7] for first in first_days]


def _arrival(rng: random.Random, start: datetime, days: Sequence[date], zone: ZoneInfo) -> datetime:
    at_weekend = rng.random() < WEEKEND
    day = rng.choice([day for day in days if (day.isoweekday() > 5) is at_weekend])
    first_hour, last_hour = _draw(rng, HOURS_OF_DAY)
    minutes = rng.randrange(first_hour * 60, last_hour * 60) % (24 * 60)
    at = datetime.combine(day, time(*divmod(minutes, 60)), zone).astimezone(UTC)
    # The first day began before `start`: what fell before it comes 52 weeks later, on the same weekday.
    return at if at >= start else at + timedelta(days=DAYS)


def _household(rng: random.Random) -> Household:
    kind = rng.random()
    if kind < MINOR:
        return Household(children_12_to_17=1, age_status=AgeStatus.PRESUMED_MINOR)
    if kind < MINOR + FAMILY:
        children = [rng.randrange(18) for _ in range(rng.choice((1, 1, 1, 2, 2, 3)))]
        return Household(
            women=1,
            men=int(rng.random() < 0.2),
            children_under_6=sum(age < 6 for age in children),
            children_6_to_11=sum(6 <= age < 12 for age in children),
            children_12_to_17=sum(age >= 12 for age in children),
        )
    return Household(women=1) if rng.random() < WOMAN else Household(men=1)


def _needs(rng: random.Random, household: Household) -> tuple[Need, ...]:
    chances = NEEDS | {
        Need.PREGNANCY_CARE: PREGNANT if household.women else 0.0,
        Need.INFANT_CARE: INFANT if household.children_under_6 else 0.0,
    }
    return tuple(need for need, chance in chances.items() if rng.random() < chance)


def _languages(rng: random.Random, local: tuple[str, ...]) -> tuple[str, ...]:
    spoken = [rng.choice(MIGRANT_LANGUAGES)]
    if rng.random() < ENGLISH:
        spoken.append("en")
    if rng.random() < OWN_LANGUAGE:
        spoken.append(rng.choice(local))
    return tuple(dict.fromkeys(spoken))


def _danger_zones(rng: random.Random, country: str, reference: Reference) -> tuple[DangerZone, ...]:
    """The region of stay first."""
    inside = reference.regions_of(country)
    regions = rng.sample(inside, min(len(inside), 2 if rng.random() < SECOND_ZONE else 1))
    if rng.random() < ZONE_ABROAD:
        regions.append(rng.choice(sorted(reference.neighbours(country))))
    return tuple(DangerZone(code=region, with_neighbours=rng.random() < WITH_NEIGHBOURS) for region in regions)


def _consented(rng: random.Random, household: Household, others: list[str]) -> tuple[str, ...]:
    draw = rng.random()
    if household.age_status is AgeStatus.PRESUMED_MINOR or draw >= CONSENT_TO_ALL + CONSENT_TO_ONE:
        return ()
    return tuple(others) if draw < CONSENT_TO_ALL else (rng.choice(others),)


def _behaviour(rng: random.Random, urgency: Urgency) -> Behaviour:
    return Behaviour(
        asks=tuple(_ask(rng, urgency) for _ in range(ASKS_DRAWN)),
        stay=STAY_MEDIAN * rng.lognormvariate(0, STAY_SPREAD),
    )


def _ask(rng: random.Random, urgency: Urgency) -> AskBehaviour:
    shelter_declines = rng.random() < ASK_FAILS * (1 - FAILS_BY_HOUSEHOLD)
    return AskBehaviour(
        answered_after=ANSWER_MEDIAN[urgency] * rng.lognormvariate(0, ANSWER_SPREAD),
        decline=_draw(rng, DECLINES) if shelter_declines else None,
        household_agrees=rng.random() >= HOUSEHOLD_SAYS_NO,
    )
