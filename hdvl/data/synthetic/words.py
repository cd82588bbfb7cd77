"""The vocabulary of the synthetic documents: labels and goods that are asked by name, and values."""

import random

LABELS = {
    "en": """Name|Company|Date|Time|City|Country|Phone|Order|Invoice|Account|Age|Height|Weight|Color|Size
Model|Room|Floor|Gate|Seat|Flight|Code|Batch|Serial|Level|Score|Grade|Price|Amount|Balance|Contact|Street
Department|Project|Budget|Status|Member|Ticket|Voltage|Pressure|Manager""".replace("\n", "|").split(
        "|"
    ),
    "zh": """姓名|公司|日期|时间|城市|国家|电话|订单|发票|账号|年龄|身高|体重|颜色|尺寸|型号|房间|楼层|登机口|座位
航班|编号|批次|等级|分数|价格|金额|余额|部门|项目|预算|状态|会员|电压|压力|经理""".replace(
        "\n", "|"
    ).split("|"),
}
GOODS = {
    "en": """coffee|tea|milk|bread|butter|cheese|apple|banana|orange|grape|rice|noodles|soup|salad|pizza|burger
chicken|beef|fish|egg|sugar|salt|pepper|honey|juice|water|cake|cookie|chocolate|candy|onion|carrot|potato|tomato
lemon|peach|melon|yogurt|cereal|pasta|soap|towel|candle|paper|pencil|notebook|battery|lamp|brush|basket""".replace(
        "\n", "|"
    ).split("|"),
    "zh": """咖啡|绿茶|牛奶|面包|黄油|奶酪|苹果|香蕉|橙子|葡萄|米饭|面条|汤|沙拉|鸡肉|牛肉|鱼|鸡蛋|白糖|盐|蜂蜜
果汁|水|蛋糕|饼干|糖果|洋葱|土豆|番茄|柠檬|桃子|西瓜|酸奶|肥皂|毛巾|蜡烛|纸巾|铅笔|电池|台灯""".replace(
        "\n", "|"
    ).split("|"),
}
PLACES = {
    "en": """London|Paris|Berlin|Madrid|Rome|Vienna|Prague|Dublin|Oslo|Lisbon|Athens|Warsaw|Tokyo|Osaka|Seoul
Beijing|Delhi|Cairo|Lima|Sydney|Boston|Dallas|Denver|Chicago|Miami|Toronto|Geneva|Milan|Lyon|Porto""".replace(
        "\n", "|"
    ).split("|"),
    "zh": """北京|上海|广州|深圳|杭州|南京|苏州|武汉|成都|重庆|西安|天津|青岛|大连|长沙|昆明|厦门|福州|济南|郑州""".split(
        "|"
    ),
}
SHOPS = {
    "en": """Bakery|Pharmacy|Bookshop|Florist|Cafe|Barber|Hotel|Bank|Cinema|Market|Garage|Museum|School|Clinic
Dentist|Laundry|Optician|Tailor|Butcher|Jeweler|Theater|Library|Gym|Salon""".replace(
        "\n", "|"
    ).split("|"),
    "zh": "面包店|药店|书店|花店|咖啡馆|理发店|酒店|银行|电影院|超市|博物馆|学校|诊所|牙科|洗衣店|眼镜店|图书馆|健身房".split(
        "|"
    ),
}
FIRST = "Alice Bruno Clara David Elena Frank Grace Henry Irene James Karen Lucas Maria Nadia Oscar Paula".split()
LAST = "Adams Baker Carter Dixon Evans Foster Gibson Hughes Jensen Keller Larson Miller Nolan Olsen".split()
SURNAMES, GIVEN = "王李张刘陈杨赵黄周吴", "伟芳娜敏静丽强磊军洋勇艳杰娟涛明超"
COLORS = {
    "red": (200, 40, 40),
    "blue": (40, 70, 190),
    "green": (30, 130, 60),
    "purple": (120, 50, 150),
    "brown": (120, 75, 40),
    "black": (25, 25, 25),
}
COLORS_ZH = {
    "red": "红色",
    "blue": "蓝色",
    "green": "绿色",
    "purple": "紫色",
    "brown": "棕色",
    "black": "黑色",
}
TOTALS = {
    "en": ("Subtotal", "Tax", "Total", "Cash", "Change"),
    "zh": ("小计", "税额", "合计", "现金", "找零"),
}
COLUMNS = {
    "en": ("Price", "Stock", "Code", "Weight", "Score", "Sales"),
    "zh": ("价格", "库存", "编号", "重量", "分数", "销量"),
}
_CODE_LETTERS = "ABCDEFGHJKLMNPRSTUVWXYZ"


def price(rng: random.Random, top: int = 9999) -> str:
    """An amount with two decimals."""
    return f"{rng.randrange(50, top) / 100:.2f}"


def number(rng: random.Random) -> str:
    """A whole number of two to five digits."""
    return str(rng.randrange(10, 10 ** rng.randint(2, 5)))


def code(rng: random.Random) -> str:
    """A code such as ``KX-4821``."""
    letters = "".join(rng.choices(_CODE_LETTERS, k=2))
    return f"{letters}-{rng.randrange(100, 9999)}"


def date(rng: random.Random) -> str:
    """An ISO date."""
    return f"{rng.randint(2015, 2029)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"


def clock(rng: random.Random) -> str:
    """A time of day, 24 hours."""
    return f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}"


def phone(rng: random.Random) -> str:
    """A short telephone number."""
    return f"{rng.randint(200, 999)}-{rng.randint(1000, 9999)}"


def person(rng: random.Random, language: str) -> str:
    """A made-up name."""
    if language == "zh":
        return rng.choice(SURNAMES) + "".join(rng.choices(GIVEN, k=rng.randint(1, 2)))
    return f"{rng.choice(FIRST)} {rng.choice(LAST)}"


def value(rng: random.Random, language: str) -> str:
    """Any value a form may hold."""
    makers = (price, number, code, date, clock, phone)
    if rng.random() < 0.2:
        return person(rng, language)
    if rng.random() < 0.1:
        return rng.choice(PLACES[language])
    return rng.choice(makers)(rng)


def alphabet() -> str:
    """Every character that a document can show, sorted: the classes of the dense reading labels."""
    lists = [*LABELS.values(), *GOODS.values(), *PLACES.values(), *SHOPS.values()]
    words = [word for words in lists for word in words] + FIRST + LAST
    words += [word for group in (*TOTALS.values(), *COLUMNS.values()) for word in group]
    extra = SURNAMES + GIVEN + _CODE_LETTERS + "0123456789.:-$¥%,/()#"
    extra += "".join(COLORS_ZH.values()) + _FURNITURE
    return "".join(
        sorted(
            {
                c
                for word in [*words, extra]
                for c in (word, word.upper(), word.title())
                for c in c
                if not c.isspace()
            }
        )
    )


_FURNITURE = "ReceiptFormStockListSalesReportDeparturesTimePlatformDestinationTelItem收据表格库存清单销售报告出发时间站台目的地品名"
