"""Evidence that bytes which GB18030 can read are another code page.

GB18030 gives some meaning to almost any bytes, and the code pages of Japanese, Korean and
alphabets fall onto its common characters. They do not fall onto the frequent ones: of the Han
characters of Chinese product texts 0.43 to 0.6 are among FREQUENT, of text in another code page
0.1 to 0.3 (Multi-CPR against Japanese, Korean and Big5, samples of eight texts or more).
"""

from __future__ import annotations

SHARE = 0.35  # least share of the Han characters that are frequent
KANA = 0.1  # greatest share of the characters beyond ASCII that are kana: GB 2312 has them too
# The 500 most frequent characters of Chinese, and some 120 of what is sold.
FREQUENT = frozenset(
    "的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分对成会可主发年动同工也能下"
    "过子说产种面而方后多定行学法所民得经十三之进着等部度家电力里如水化高自二理起小物现实加量都"
    "两体制机当使点从业本去把性好应开它合还因由其些然前外天政四日那社义事平形相全表间样与关各重"
    "新线内数正心反你明看原又么利比或但质气第向道命此变条只没结解问意建月公无系军很情者最立代想"
    "已通并提直题党程展五果料象员革位入常文总次品式活设及管特件长求老头基资边流路级少图山统接知"
    "较将组见计别她手角期根论运农指几九区强放决西被干做必战先回则任取据处队南给色光门即保治北造"
    "百规热领七海口东导器压志世金增争济阶油思术极交受联什认六共权收证改清己美再采转更单风切打白"
    "教速花带安场身车例真务具万每目至达走积示议声报斗完类八离华名确才科张信马节话米整空元况今集"
    "温传土许步群广石记需段研界拉林律叫且究观越织装影算低持音众书布复容儿须际商非验连断深难近矿"
    "千周委素技备半办青省列习响约支般史感劳便团往酸历市克何除消构府称太准精值号率族维划选标写存"
    "候毛亲快效斯院查江型眼王按格养易置派层片始却专状育厂京识适属圆包火住调满县局照参红细引听该"
    "铁价严款女男鞋衣裤裙帽袜灯饰箱套杯壶锅刀盒袋纸膜贴架床桌椅柜沙垫枕冬夏春秋季韩版潮尚休闲防"
    "晒宝婴童卡银黑蓝绿粉紫灰棕链项戒耳环香护肤霜洗膏奶茶酒零食糖坚智屏幕钢玻璃苹微星键盘鼠笔镜"
)
OTHERS = (
    "it would be no usual Chinese; name its codec with data.encoding: euc_jp or shift_jis for "
    "Japanese, cp949 for Korean, big5 for traditional Chinese, koi8_r, cp1251 or cp1253 for "
    "Cyrillic or Greek"
)


def not_chinese(text: str) -> str:
    """Return why ``text``, as GB18030 read it, is no Chinese, with the codecs to try.

    Empty where it looks Chinese.
    """
    beyond = [char for char in text if not char.isascii()]
    han = [char for char in beyond if "\u3400" <= char <= "\u9fff"]
    kana = sum("\u3040" <= char <= "\u30ff" for char in beyond)
    frequent = sum(char in FREQUENT for char in han)
    chinese = kana <= KANA * len(beyond) and frequent >= SHARE * len(han)
    return "" if chinese else OTHERS
