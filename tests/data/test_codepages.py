"""A legacy code page is never taken for another one in silence."""

from __future__ import annotations

import pytest

from embsearch.data.decode import decode
from embsearch.errors import DataError

CHINESE = "防水运动手表\n无线降噪耳机 黑色\n不锈钢电水壶 家用 大容量\n女士包 新款\n"
OTHERS = {
    "euc_jp": "電気ケトル 白い 大容量\nワイヤレスイヤホン 防水\n",
    "euc_jis_2004": "日本製 自動車 整備工具 一式 新品\n東京都新宿区 電気製品 高級腕時計\n",
    "shift_jis": "電気ケトル 白い 大容量\nワイヤレスイヤホン 防水\n",
    "cp949": "전기 주전자 흰색 대용량\n【특가】 무선 청소기 ※ 국내산\n",
    "johab": "전기 주전자 흰색 대용량\n무선 이어폰 방수\n",
    "big5": "電熱水壺 白色 不鏽鋼 大容量\n無線藍牙耳機 降噪 運動\n",
    "cp1251": "электрический чайник белый\nнаушники\n",
    "koi8_r": "привет чайники белые\nсумки\n",
    "cp1253": "βραστήρας λευκός μεγάλος\n",
    "cp874": "กาต้มน้ำไฟฟ้า สีขาว\n",
    "cp1252": "Café crème\nMüller Straße\n",
}


@pytest.mark.parametrize("codec", OTHERS)
def test_another_code_page_is_asked_for(codec):
    with pytest.raises(DataError, match=r"data\.encoding"):
        decode((OTHERS[codec] * 3).encode(codec), "a.csv")
    assert decode((OTHERS[codec] * 3).encode(codec), "a.csv", codec)[0] == OTHERS[codec] * 3


@pytest.mark.parametrize("text", [CHINESE, "灯\n", "女包 背包 大号 黑 白\n", "蓝牙耳机\n"])
def test_chinese_is_read_without_asking(text):
    assert decode(text.encode("gb18030"), "a.csv") == (text, "gb18030")
